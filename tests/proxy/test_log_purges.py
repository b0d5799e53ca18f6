"""A purge reaches what is under way: in a spool, beside it, in a write of another process. Nothing of it comes back."""

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Engine

from proxy.log import InterventionLog, LogReader, RequestCounts
from proxy.log.connect import open_engine, parse_url
from proxy.log.entries import Entry, apply, complete_of, count_of, dump, insert_of, whose_of
from proxy.log.errors import UnknownIntervention
from proxy.log.purge import carry_out
from proxy.log.purges import Purge, remember
from proxy.log.rejected import purge_rejected, put_aside
from proxy.log.spool import Spool, SpoolPlace
from proxy.log.store import LogOptions
from proxy.log.tables import purges
from proxy.log.texts import PLAIN
from tests.patience import PATIENCE_S
from tests.proxy.log_records import completion, record

pytestmark = pytest.mark.anyio

CHOSEN = [Purge(request_id="r-gone"), Purge(tenant="gone"), Purge(before=datetime.now(UTC) + timedelta(days=1))]


@pytest.fixture
def place(tmp_path: Path) -> SpoolPlace:
    return SpoolPlace(tmp_path / "spool", 1 << 20)


def purge(log_url: str, wanted: Purge) -> None:
    engine = open_engine(parse_url(log_url), writes=True)
    remember(engine, wanted)
    sum(carry_out(engine, wanted))
    engine.dispose()


async def left(log_url: str) -> set[str]:
    async with LogReader.open(log_url) as reader:
        stats = await reader.stats()
        found = {item.id for item in (await reader.list(limit=1000)).items}
        return found | ({"counts"} if stats.requests else set())


@pytest.mark.parametrize("wanted", CHOSEN)
async def test_what_lay_in_a_spool_while_it_was_purged_does_not_come_back(
    log_url: str, place: SpoolPlace, wanted: Purge
) -> None:
    """The insert of the first record was in the database, all else waited."""
    first, second = (record(id=name, request_id="r-gone", tenant="gone") for name in ("first", "second"))
    counts = RequestCounts("r-gone", "gone", "lrm", "hold", first.created_at, "stop")
    async with InterventionLog.open(log_url) as log:
        await log.insert(first)
    spool = Spool.make(place)
    for entry in (
        complete_of(first.id, completion(), PLAIN, whose_of(first)),
        insert_of(second, None, PLAIN),
        complete_of(second.id, completion(), PLAIN, whose_of(second)),
        count_of(counts),
    ):
        spool.append(dump(entry))
    spool.close(delete=False)
    purge(log_url, wanted)
    async with InterventionLog.open(log_url, LogOptions(spool=place)) as log:
        later = record(id="later", created_at=datetime.now(UTC), tenant="gone")
        await log.insert(later)
        await log.complete(later.id, completion())
        assert await left(log_url) == {"later"}, "what is made afterwards is kept"
    assert list(place.folder.iterdir()) == []


async def test_a_stream_goes_on_although_its_record_is_purged_under_it(log_url: str) -> None:
    async with InterventionLog.open(log_url) as log:
        running = record(request_id="r-gone")
        await log.insert(running)
        purge(log_url, Purge(request_id="r-gone"))
        await log.complete(running.id, completion())
        await log.insert(record(request_id="r-gone", attempt=1))
        assert await left(log_url) == set()
        with pytest.raises(UnknownIntervention):
            await log.complete("of nobody", completion())


def is_waiting(engine: Engine) -> bool:
    """Whether somebody waits for a lock (PostgreSQL; SQLite's writers do not show it)."""
    with engine.connect() as connection:
        if connection.dialect.name != "postgresql":
            return True
        found = connection.exec_driver_sql("select count(*) from pg_locks where not granted").scalar_one()
        return bool(found)


async def test_a_write_that_began_before_a_purge_does_not_end_after_it(log_url: str) -> None:
    async with InterventionLog.open(log_url):
        pass
    writing, looking = (open_engine(parse_url(log_url), writes=writes) for writes in (True, False))
    started = threading.Event()

    def run() -> None:
        started.set()
        purge(log_url, Purge(tenant="gone"))

    thread = threading.Thread(target=run)
    with writing.begin() as connection:
        apply(connection, insert_of(record(tenant="gone"), None, PLAIN))
        thread.start()
        started.wait(60)
        with anyio.fail_after(PATIENCE_S):
            while thread.is_alive() and not is_waiting(looking):  # noqa: ASYNC110 - locks ring no bell
                await anyio.sleep(0.01)
    await anyio.to_thread.run_sync(thread.join)
    assert await left(log_url) == set()
    writing.dispose()
    looking.dispose()


async def test_a_purge_reaches_what_the_database_once_refused(place: SpoolPlace) -> None:
    place.folder.mkdir()
    asked, other = record(id="asked", request_id="r-gone"), record(id="other")
    entries: list[Entry] = [
        insert_of(asked, None, PLAIN),
        complete_of("asked", completion(), PLAIN),
        complete_of("known by the log", completion(), PLAIN),
        complete_of("unknown", completion(), PLAIN, whose_of(asked)),
        insert_of(other, None, PLAIN),
        complete_of("other", completion(), PLAIN),
    ]
    for entry in entries:
        path = put_aside(place.folder, entry)
    path.write_bytes(path.read_bytes() + b"a line of somebody's\n")
    before, wanted, ids = path.read_bytes(), Purge(request_id="r-gone"), {"known by the log"}
    assert purge_rejected(place.folder, wanted, ids, dry_run=True) == (path, 4)
    assert path.read_bytes() == before
    assert purge_rejected(place.folder, wanted, ids) == (path, 4)
    assert path.read_bytes() == b"".join(before.splitlines(keepends=True)[4:])
    assert purge_rejected(place.folder, wanted, ids) == (path, 0)
    assert json.loads(path.read_bytes().splitlines()[0])["insert"]["columns"]["id"] == "other"


async def test_a_purge_every_night_is_remembered_once(log_url: str) -> None:
    async with InterventionLog.open(log_url):
        pass
    engine = open_engine(parse_url(log_url), writes=True)
    day = timedelta(days=1)
    for night in range(3, 0, -1):
        for wanted in (
            Purge(before=datetime.now(UTC) - night * day),
            Purge(tenant="gone"),
            Purge(tenant="gone", before=datetime.now(UTC) - 9 * day),
            Purge(request_id="r-1", tenant="other"),
        ):
            remember(engine, wanted)
    with engine.connect() as connection:
        rows = connection.execute(purges.select()).all()
    engine.dispose()
    kept = sorted((row.request_id or "", row.tenant or "") for row in rows)
    # A later purge of a tenant covers the earlier ones; the last one of old records is younger than that.
    assert kept == [("", ""), ("", "gone"), ("", "gone"), *[("r-1", "other")] * 3]

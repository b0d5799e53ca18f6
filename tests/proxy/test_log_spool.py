"""The spool: what is confirmed while the database is down is on disk, and in the database once, whatever dies when."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import create_engine

from proxy.log import InterventionLog, LogReader
from proxy.log import replay as replay_module
from proxy.log import store as store_module
from proxy.log.connect import open_engine, parse_url
from proxy.log.entries import complete_of, dump, insert_of
from proxy.log.errors import LogError, LogReadOnly, SpoolFailed
from proxy.log.replay import Attempt, adopt, attempts, replay
from proxy.log.spool import Chunk, Spool, SpoolPlace
from proxy.log.store import LogOptions
from proxy.log.texts import PLAIN
from tests.patience import PATIENCE_S
from tests.proxy.log_records import completion, record

pytestmark = pytest.mark.anyio


@contextlib.contextmanager
def outage(log_url: str) -> Iterator[None]:
    """The database answers every write with an error, as one that is down, until the block ends."""
    engine = create_engine(log_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("alter table interventions rename to gone")
        try:
            yield
        finally:
            connection.exec_driver_sql("alter table gone rename to interventions")
    engine.dispose()


@pytest.fixture
def place(tmp_path: Path) -> SpoolPlace:
    return SpoolPlace(tmp_path / "spool", 1 << 20)


@pytest.fixture
async def log(log_url: str, place: SpoolPlace) -> AsyncIterator[InterventionLog]:
    async with InterventionLog.open(log_url, LogOptions(spool=place)) as opened:
        yield opened


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the database rings no bell
            await anyio.sleep(0.02)


async def test_an_outage_is_no_error_and_everything_is_there_afterwards_once(
    log: InterventionLog, log_url: str
) -> None:
    before, during, after = record(), record(), record()
    await log.insert(before)
    with outage(log_url):
        async with anyio.create_task_group() as tasks:
            for item in (during, *[record() for _ in range(20)]):
                tasks.start_soon(log.insert, item)
        await log.complete(before.id, completion())
        await log.complete(during.id, completion())
        await log.insert(during)
        assert log.spooled_bytes > 0
        assert "intervention log" in str(log.last_error)
    await until(lambda: log.spooled_bytes == 0)
    await log.insert(after)
    assert log.last_error is None
    assert await log.get(before.id) == before.completed(completion())
    assert await log.get(during.id) == during.completed(completion())
    stats = await log.stats()
    assert (stats.interventions, stats.by_outcome) == (23, {"completed": 2, "open": 21})


async def test_what_a_dead_process_left_in_its_spool_is_replayed_by_the_next_once(
    log_url: str, place: SpoolPlace
) -> None:
    async with InterventionLog.open(log_url):
        pass
    command = [sys.executable, "-m", "tests.proxy.log_worker", log_url, "dead", "30", "spool", str(place.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "opened dead\n"
        with outage(log_url):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "spooled dead\n"
            process.kill()
            process.wait()
    [file] = place.folder.iterdir()
    with file.open("ab") as torn:
        torn.write(b'12345678 {"insert":{"col')  # the crash came in the middle of a line
    for _ in range(2):
        async with InterventionLog.open(log_url, LogOptions(spool=place)) as log:
            outcomes = {item.id: item.outcome for item in (await log.list()).items}
            assert outcomes == {"dead-whole": "completed", "dead-left": "interrupted"}
            assert (await log.stats()).interventions == 2
    assert list(place.folder.iterdir()) == []


class Killed(BaseException):
    """What stands for a SIGKILL."""


async def test_a_process_killed_between_replay_and_deletion_brings_nothing_back(
    log_url: str, place: SpoolPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with InterventionLog.open(log_url):
        pass
    spool = Spool.make(place)
    spool.append(dump(insert_of(record(id="gone"), None, PLAIN)))
    spool.close(delete=False)
    engine = open_engine(parse_url(log_url), writes=True)
    held: list[Spool] = []

    def die(found: Spool, _end: int) -> bool:
        held.append(found)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Spool, "replayed", die)
        with pytest.raises(Killed):
            adopt(place, attempts(engine))
    held[0].close(delete=False)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("delete from interventions").rowcount == 1  # a purge, meanwhile
    engine.dispose()
    async with InterventionLog.open(log_url, LogOptions(spool=place)) as log:
        assert (await log.list()).items == []
    assert list(place.folder.iterdir()) == []


async def test_a_completion_that_stands_before_its_insert_is_not_lost(log_url: str, place: SpoolPlace) -> None:
    spool, made = Spool.make(place), record()
    spool.append(dump(complete_of(made.id, completion(), PLAIN)))
    spool.append(dump(insert_of(made, None, PLAIN)))
    spool.close(delete=False)
    async with InterventionLog.open(log_url, LogOptions(spool=place)) as log:
        assert await log.get(made.id) == made.completed(completion())
    assert list(place.folder.iterdir()) == []


async def test_a_full_spool_is_an_error_that_says_so_and_loses_nothing(log_url: str, tmp_path: Path) -> None:
    options = LogOptions(spool=SpoolPlace(tmp_path / "small", 5000))
    async with InterventionLog.open(log_url, options) as log:
        kept = 0
        with outage(log_url):
            with contextlib.suppress(SpoolFailed):
                while kept < 20:
                    await log.insert(record())
                    kept += 1
            with pytest.raises(SpoolFailed, match="spool_max_mb"):
                await log.insert(record())
        assert 1 < kept < 20
        await until(lambda: log.spooled_bytes == 0)
        assert (await log.stats()).interventions == kept


async def test_a_database_that_hangs_is_not_waited_for(
    log_url: str, place: SpoolPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "DIVERT_AFTER_S", 0.2)  # 2 s is for servers, not for tests
    written = record()
    async with InterventionLog.open(log_url, LogOptions(spool=place)) as log:
        engine = open_engine(parse_url(log_url), writes=True)
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("lock table interventions in exclusive mode")
            await log.insert(written)
            await log.complete(written.id, completion())
            assert log.spooled_bytes > 0
        engine.dispose()
        await until(lambda: log.spooled_bytes == 0)
        assert await log.get(written.id) == written.completed(completion())
        assert (await log.stats()).interventions == 1


async def test_what_the_database_refuses_on_replay_is_put_aside_and_stops_nothing(
    log: InterventionLog, log_url: str, place: SpoolPlace
) -> None:
    bad = record(id="bad").model_copy(update={"model": "odd\ud800"})  # no database text can hold a lone surrogate
    with outage(log_url):
        await log.insert(record(id="first"))
        await log.insert(bad)
        await log.complete("nobody", completion())
        await log.insert(record(id="last"))
    await until(lambda: log.spooled_bytes == 0)
    assert {item.id for item in (await log.list()).items} == {"first", "last"}
    aside = (place.folder / "rejected.jsonl").read_bytes().splitlines()
    assert [next(iter(json.loads(line))) for line in aside] == ["insert", "complete"]


async def test_a_spool_folder_that_takes_no_files_keeps_the_log_from_opening(log_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LogReadOnly, match=r"log\.spool"):
        InterventionLog.open(log_url, LogOptions(spool=SpoolPlace(tmp_path / "file", 1000)))


async def test_a_spool_is_replayed_into_the_log_that_it_belongs_to_although_others_share_its_folder(
    log_url: str, tmp_path: Path, place: SpoolPlace
) -> None:
    """As where two services are started from one folder, each with a database of its own."""
    other = f"sqlite:///{tmp_path}/other.sqlite"
    async with InterventionLog.open(log_url, LogOptions(spool=place)) as log:
        with outage(log_url):
            await log.insert(record(id="mine"))
            await log.close()  # as a process that ends while the database is down
    assert len(list(place.folder.iterdir())) == 1
    async with InterventionLog.open(other, LogOptions(spool=place)) as log:
        assert (await log.list()).items == []
    async with InterventionLog.open(log_url, LogOptions(spool=place)) as log:
        assert [item.id for item in (await log.list()).items] == ["mine"]
    assert list(place.folder.iterdir()) == []


async def test_a_spool_whose_folder_was_deleted_under_it_is_made_again(
    log: InterventionLog, log_url: str, place: SpoolPlace
) -> None:
    shutil.rmtree(place.folder)
    with outage(log_url):
        await log.insert(record(id="kept"))
        [file] = place.folder.iterdir()
        assert b"kept" in file.read_bytes()
        assert list(Spool.abandoned(place)) == [], "it is locked as before"
    await until(lambda: log.spooled_bytes == 0)
    assert [item.id for item in (await log.list()).items] == ["kept"]


async def test_a_spool_is_emptied_although_writes_keep_coming(
    log: InterventionLog, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more for each portion that is replayed: a steady load must not chase the end of the file for ever."""
    loop, apply, portions = asyncio.get_running_loop(), replay_module._apply, 0

    def loaded(spool: Spool, chunk: Chunk, attempt: Attempt) -> LogError | None:
        nonlocal portions
        portions += 1
        if portions < 50:
            size = spool.num_bytes
            asyncio.run_coroutine_threadsafe(log.insert(record()), loop)
            while spool.num_bytes == size and not log._writer._pending:
                time.sleep(0.001)
        return apply(spool, chunk, attempt)

    with outage(log_url):
        await log.insert(record())
        monkeypatch.setattr(replay_module, "_apply", loaded)
    await until(lambda: log.spooled_bytes == 0)
    await log.insert(record())
    assert portions < 10
    assert (await log.stats()).interventions == portions + 2


async def test_a_long_replay_lets_the_writing_thread_go_in_between(log_url: str, place: SpoolPlace) -> None:
    """For its heartbeats: others would take a process without them for dead."""
    async with InterventionLog.open(log_url):
        pass
    spool, engine = Spool.make(place), open_engine(parse_url(log_url), writes=True)
    spool.append(*(dump(insert_of(record(id=f"i{number}"), None, PLAIN)) for number in range(600)))
    rounds = 0
    while spool.has_entries:
        rounds += 1
        assert replay(spool, attempts(engine), most_s=0) is None
    assert rounds == 3
    spool.close(delete=True)
    engine.dispose()
    async with LogReader.open(log_url) as reader:
        assert (await reader.stats()).interventions == 600


async def test_a_log_file_that_is_moved_away_under_its_writers_counts_as_down(
    tmp_path: Path, place: SpoolPlace
) -> None:
    path = tmp_path / "log.sqlite"
    async with InterventionLog.open(f"sqlite:///{path}", LogOptions(spool=place)) as log:
        await log.insert(record(id="before"))
        path.rename(tmp_path / "aside")
        await log.insert(record(id="meanwhile"))
        assert "moved or deleted" in str(log.last_error)
        assert log.spooled_bytes > 0
        (tmp_path / "aside").rename(path)
        await until(lambda: log.spooled_bytes == 0)
        assert {item.id for item in (await log.list()).items} == {"before", "meanwhile"}


def test_a_living_process_keeps_its_file(place: SpoolPlace) -> None:
    mine = Spool.make(place)
    mine.append(b"{}")
    assert list(Spool.abandoned(place)) == []
    mine.close(delete=False)
    [found] = Spool.abandoned(place)
    assert found.has_entries
    found.close(delete=True)
    assert list(place.folder.iterdir()) == []


def test_a_damaged_line_is_passed_over_and_the_rest_is_read(place: SpoolPlace) -> None:
    spool = Spool.make(place)
    entries = [insert_of(record(id=name), None, PLAIN) for name in "abc"]
    for entry in entries:
        spool.append(dump(entry))
    content = bytearray(spool.path.read_bytes())
    content[content.index(b'"b"') + 1] ^= 1
    spool.path.write_bytes(content)
    [chunk] = spool.chunks(0)
    assert (chunk.entries, chunk.damaged) == ([entries[0], entries[2]], 1)
    assert chunk.end == len(content)
    spool.close(delete=True)

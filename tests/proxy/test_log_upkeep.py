"""What is deleted, by whom and how completely; what a look over the log finds; a copy of a log in use."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Engine, event

from proxy.log import Filters, InterventionLog, LogReader, RequestCounts, retention
from proxy.log.connect import open_engine, parse_url
from proxy.log.counters import scope_of, text_bytes
from proxy.log.errors import ExportError
from proxy.log.folding import fold
from proxy.log.purge import carry_out, ids_of
from proxy.log.purges import Purge
from proxy.log.retention import Retention
from proxy.log.store import LogOptions
from proxy.log.texts import PLAIN
from proxy.log.upkeep import backup
from proxy.log.verify import Findings, verify
from tests.patience import PATIENCE_S
from tests.proxy.log_records import completion, record

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)


async def filled(log_url: str, ages: list[float], **changes: object) -> list[str]:
    """Complete records, so many days old."""
    records = [record(created_at=NOW - timedelta(days=age), **changes) for age in ages]
    async with InterventionLog.open(log_url) as log:
        for item in records:
            log.note(RequestCounts(item.request_id, item.tenant, "lrm", "hold", item.created_at, "x", interventions=1))
        async with anyio.create_task_group() as tasks:
            for item in records:
                tasks.start_soon(log.insert, item.completed(completion()))
    return [item.id for item in records]


def run(engine: Engine, rules: Retention) -> int:
    """Steps until there is no more to do."""
    steps = 0
    while True:
        steps += 1
        with engine.begin() as connection:
            if not rules.step(connection):
                return steps


async def left(log_url: str) -> set[str]:
    async with LogReader.open(log_url) as reader:
        return {item.id for item in (await reader.list(limit=1000)).items}


def is_in_files(text: bytes, folder: Path) -> bool:
    return any(text in path.read_bytes() for path in folder.iterdir())


def found(log_url: str) -> Findings:
    engine = open_engine(parse_url(log_url), writes=False)
    findings = verify(engine, PLAIN)
    engine.dispose()
    return findings


async def test_retention_by_age_deletes_records_and_earlier_their_text(log_url: str) -> None:
    ids = await filled(log_url, [40, 20, 1])
    engine = open_engine(parse_url(log_url), writes=True)
    run(engine, Retention(keep_days=30, keep_text_days=10))
    engine.dispose()
    async with LogReader.open(log_url) as reader:
        assert {item.id for item in (await reader.list()).items} == set(ids[1:])
        old, young = await reader.get(ids[1]), await reader.get(ids[2])
        assert (old.messages, old.outcome, old.score) == ([], "completed", 0.9)
        assert young.messages
        stats = await reader.stats()
        assert (stats.interventions, stats.requests) == (2, 2)
    assert found(log_url).problems == {}


async def test_retention_by_size_deletes_the_oldest_in_steps(log_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = [{"role": "user", "content": "x" * 1000}]
    monkeypatch.setattr(retention, "STEP_ROWS", 20)
    ids = await filled(log_url, [age / 1000 for age in range(60, 0, -1)], messages=text)
    engine = open_engine(parse_url(log_url), writes=True)
    with engine.begin() as connection:
        fold(connection)
        size = text_bytes(connection)
    assert size > 60_000
    assert run(engine, Retention(max_bytes=size - 40_000)) > 1
    with engine.begin() as connection:
        assert 0 < text_bytes(connection) <= size - 40_000
    engine.dispose()
    remaining = await left(log_url)
    assert remaining == set(ids[-len(remaining) :]), "the oldest went"


async def test_retention_is_done_once_in_its_period_by_whichever_process(log_url: str) -> None:
    engine = open_engine(parse_url(log_url), writes=True)
    await filled(log_url, [40])
    run(engine, Retention(keep_days=30))
    await filled(log_url, [40])
    run(engine, Retention(keep_days=30))
    assert len(await left(log_url)) == 1
    run(engine, Retention(keep_days=30, every_s=0))
    assert await left(log_url) == set()
    await filled(log_url, [40])
    with engine.begin() as connection:  # done while the clock was a year ahead
        connection.exec_driver_sql(f"update chores set done_us = done_us + {365 * 86_400_000_000}")
    run(engine, Retention(keep_days=30))
    assert await left(log_url) == set()
    engine.dispose()


async def test_retention_and_size_limits_leave_records_alone_that_are_still_open(log_url: str) -> None:
    async with InterventionLog.open(log_url) as log:
        running = record(created_at=NOW - timedelta(days=40))
        await log.insert(running)
        engine = open_engine(parse_url(log_url), writes=True)
        run(engine, Retention(keep_days=30, keep_text_days=30, max_bytes=0))
        await log.complete(running.id, completion())
        assert (await log.get(running.id)).messages
        run(engine, Retention(keep_days=30, every_s=0))
        engine.dispose()
        assert await left(log_url) == set()


async def test_an_export_beside_retention_has_whole_records_alone(log_url: str) -> None:
    """Their texts go between the two statements that read a chunk."""
    await filled(log_url, [40, 40, 1])
    deleting = open_engine(parse_url(log_url), writes=True)

    def delete(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if "FROM interventions" in statement and "count(" not in statement:
            run(deleting, Retention(keep_days=30, every_s=0))

    async with LogReader.open(log_url) as reader:
        event.listen(reader._engine, "after_cursor_execute", delete)
        exported = [item async for item in reader.export()]
    deleting.dispose()
    assert len(exported) == 3
    assert all(item.messages and item.completion for item in exported)
    assert len(await left(log_url)) == 1


async def test_a_serving_log_deletes_beside_its_writes(log_url: str) -> None:
    old, young = await filled(log_url, [40, 1])
    async with InterventionLog.open(log_url, LogOptions(retention=Retention(keep_days=30), lease_s=0.3)) as log:
        await log.insert(record(id="beside"))
        with anyio.fail_after(PATIENCE_S):
            while old in await left(log_url):  # noqa: ASYNC110 - the thread rings no bell
                await anyio.sleep(0.05)
        assert await left(log_url) == {young, "beside"}


async def test_a_purge_deletes_what_was_asked_for_and_nothing_else(log_url: str) -> None:
    cases = [
        (Purge(tenant="t2", before=NOW - timedelta(days=5)), {"a", "b", "c"}),
        (Purge(before=NOW - timedelta(days=5)), {"b", "c"}),
        (Purge(request_id="r-b"), {"a", "c"}),
        (Purge(tenant="t2"), {"a", "b"}),
    ]
    records = [
        record(id="a", created_at=NOW - timedelta(days=10)),
        record(id="b", request_id="r-b"),
        record(id="c", tenant="t2"),
    ]
    async with InterventionLog.open(log_url) as log:
        engine = open_engine(parse_url(log_url), writes=True)
        for purge, expected in cases:
            for item in records:
                await log.insert(item.completed(completion()))
            assert ids_of(engine, purge) == {"a", "b", "c"} - expected
            sum(carry_out(engine, purge))
            assert await left(log_url) == expected
            findings = found(log_url)
            assert (findings.problems, findings.interventions) == ({}, len(expected))
        engine.dispose()


async def test_a_purged_text_is_nowhere_in_the_files_of_a_sqlite_log(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite"
    await filled(url, [1], messages=[{"role": "user", "content": "Erika Mustermann" * 500}])
    assert is_in_files(b"Erika", tmp_path)
    engine = open_engine(parse_url(url), writes=True)
    sum(carry_out(engine, Purge(tenant="default")))
    engine.dispose()
    assert not is_in_files(b"Erika", tmp_path)


def test_a_purge_of_nothing_in_particular_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time"):
        Purge()


DAMAGE = {
    "half-written": "delete from intervention_texts where part = 'completion' and intervention_id = '{}'",
    "unreadable text": "update intervention_texts set body = '[]' where part = 'halt' and intervention_id = '{}'",
    "locked text": "update intervention_texts set body = 'fernet:x' where part = 'halt' and intervention_id = '{}'",
    "outcome and completion differ": "update interventions set completed_us = null where id = '{}'",
    "open without a process": "update interventions set outcome = 'open', owner_id = 'nobody' where id = '{}'",
}


async def test_each_kind_of_damage_is_found_and_named(log_url: str) -> None:
    ids = await filled(log_url, [1.0] * (len(DAMAGE) + 1))
    assert found(log_url).problems == {}
    engine = open_engine(parse_url(log_url), writes=True)
    with engine.begin() as connection:
        fold(connection)
        for damage, record_id in zip(DAMAGE.values(), ids, strict=False):
            connection.exec_driver_sql(damage.format(record_id))
        connection.exec_driver_sql("update daily_counts set n = n + 1 where kind = 'outcome'")
    engine.dispose()
    problems = found(log_url).problems
    assert set(problems) == {*DAMAGE, "wrong counts"}
    for kind, record_id in zip(DAMAGE, ids, strict=False):
        assert any(record_id in what for what in problems[kind]), kind


async def test_a_backup_of_a_log_in_use_is_whole_and_can_be_opened_in_its_place(tmp_path: Path) -> None:
    url = parse_url(f"sqlite:///{tmp_path}/log.sqlite")
    confirmed: set[str] = set()
    async with InterventionLog.open(f"sqlite:///{tmp_path}/log.sqlite") as log:

        async def write() -> None:
            while True:
                item = record(messages=[{"role": "user", "content": "x" * 20_000}])
                await log.insert(item.completed(completion()))
                confirmed.add(item.id)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(write)
            while len(confirmed) < 50:  # noqa: ASYNC110 - counted by the writers
                await anyio.sleep(0.01)
            before = set(confirmed)
            await anyio.to_thread.run_sync(backup, url, tmp_path / "copy.sqlite")
            tasks.cancel_scope.cancel()
    copy = f"sqlite:///{tmp_path}/copy.sqlite"
    assert found(copy).problems == {}
    assert before <= await left(copy)
    async with InterventionLog.open(copy) as restored:
        await restored.insert(record(id="after"))
        assert (await restored.get("after")).outcome == "open"
    assert (tmp_path / "copy.sqlite").stat().st_mode & 0o777 == 0o600


@pytest.mark.postgres
@pytest.mark.parametrize("log_url", ["postgres"], indirect=True)
def test_a_server_is_left_to_its_own_tools(log_url: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="pg_dump"):
        backup(parse_url(log_url), tmp_path / "copy")


async def test_counts_by_day_answer_as_the_rows_do(log_url: str) -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    records = [
        record(
            created_at=start + timedelta(hours=7 * number),
            tenant=f"t{number % 3}",
            mode="hold" if number % 4 else "monitor",
            category=None if number % 5 else "topic-b",
        )
        for number in range(40)
    ]
    async with InterventionLog.open(log_url) as log:
        for item in records:
            await log.insert(item)
        engine = open_engine(parse_url(log_url), writes=True)
        with engine.begin() as connection:
            fold(connection)  # the rest is counted from what waits to be folded
        engine.dispose()
        for item in records[::2]:
            await log.complete(item.id, completion("refused"))
        day = timedelta(days=1)
        spans = [(None, None), (start + day, None), (start + day, start + 4.3 * day), (start, start + 0.1 * day)]
        chosen = [
            Filters(),
            Filters(tenant="t1"),
            Filters(mode="hold"),
            Filters(tenant="t2", mode="monitor"),
            Filters(category="topic-b"),
            Filters(outcome="refused", mode="hold"),
            Filters(trigger_id="reframe-1"),
            Filters(review_state="unreviewed"),
            Filters(model="lrm"),
            Filters(adapter="none of these"),
        ]
        several = [
            Filters(category="topic-b", outcome="refused"),
            Filters(tenant="t1", model="lrm"),
            Filters(tenant="t1", outcome="open", mode="hold", trigger_id="reframe-1", review_state="unreviewed"),
        ]
        for since, until in spans:
            for filters in chosen + several:
                asked = replace(filters, since=since, until=until)
                assert (scope_of(asked) is not None) == (filters in chosen)
                # A bound that every score meets is nothing that counts know of.
                assert await log.stats(asked) == await log.stats(replace(asked, min_score=0.0)), asked

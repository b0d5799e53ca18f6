"""The intervention log as its callers see it. Every test runs on SQLite and on PostgreSQL."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import Engine, event

from proxy.log import Filters, InterventionLog, LogReader, RequestCounts
from proxy.log.connect import open_engine, parse_url
from proxy.log.errors import LogClosed, LogOverloaded, LogUnavailable, RecordRejected, UnknownIntervention
from steer.record import InterventionRecord
from tests.patience import PATIENCE_S
from tests.proxy.log_records import completion, record

pytestmark = pytest.mark.anyio

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[InterventionLog]:
    async with InterventionLog.open(log_url) as opened:
        yield opened


@contextlib.contextmanager
def held_up(log_url: str) -> Iterator[None]:
    """Another program holds the database: the log's writes wait."""
    engine = open_engine(parse_url(log_url), writes=True)
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("lock table interventions in exclusive mode")
        yield
    engine.dispose()


@contextlib.contextmanager
def counted_commits() -> Iterator[list[None]]:
    commits: list[None] = []

    def count(_connection: object) -> None:
        commits.append(None)

    event.listen(Engine, "commit", count)
    try:
        yield commits
    finally:
        event.remove(Engine, "commit", count)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may need longer for hundreds of writes than an operator should be left in the dark."""
    monkeypatch.setattr("proxy.log.store.WRITE_TIMEOUT_S", PATIENCE_S)


async def _begun(log: InterventionLog) -> None:
    """Until every write that was started is asked for, and the first has been taken in hand: it holds up the others."""
    await anyio.wait_all_tasks_blocked()
    with anyio.fail_after(PATIENCE_S):
        while log._writer._pending:  # noqa: ASYNC110 - the thread rings no bell
            await anyio.sleep(0.005)


async def _inserted(log: InterventionLog, records: list[InterventionRecord]) -> None:
    async with anyio.create_task_group() as tasks:
        for item in records:
            tasks.start_soon(log.insert, item)


async def test_a_record_comes_back_as_it_was_written(log: InterventionLog) -> None:
    odd = "sentence 句子 🙂 \x00 \ud800 \u2028 \\ ' \" %s :name"
    written = record(
        messages=[{"role": "user", "content": [{"type": "text", "text": odd}], "n": 1.5, "none": None}],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        adapter="safe@7",
        sampling={"temperature": 0.6, "stop": ["\n"]},
        refusal_cause="budget",
    )
    ending = completion(answer="句子\x00")
    await log.insert(written)
    assert await log.get(written.id) == written
    await log.complete(written.id, ending)
    assert await log.get(written.id) == written.completed(ending)


async def test_both_phases_may_be_repeated_and_the_first_word_stays(log: InterventionLog) -> None:
    written = record()
    await log.insert(written)
    await log.insert(written.model_copy(update={"model": "other"}))
    await log.complete(written.id, completion("completed"))
    await log.complete(written.id, completion("client_left"))
    await log.insert(written)
    assert await log.get(written.id) == written.completed(completion("completed"))
    assert (await log.stats()).interventions == 1


async def test_a_record_may_be_inserted_complete(log: InterventionLog) -> None:
    written = record(mode="monitor", trigger_id=None).completed(completion("observed"))
    await log.insert(written)
    await log.complete(written.id, completion("client_left"))
    assert await log.get(written.id) == written


async def test_completing_what_was_never_inserted_is_an_error_for_that_caller_alone(
    log: InterventionLog, log_url: str
) -> None:
    others = [record() for _ in range(5)]
    errors: list[Exception] = []

    async def complete_unknown() -> None:
        try:
            await log.complete("nobody", completion())
        except UnknownIntervention as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        with held_up(log_url):  # so that all of them share one transaction
            tasks.start_soon(log.insert, others[0])
            await _begun(log)
            tasks.start_soon(complete_unknown)
            for other in others[1:]:
                tasks.start_soon(log.insert, other)
            await anyio.wait_all_tasks_blocked()
    assert len(errors) == 1
    with pytest.raises(UnknownIntervention, match="insert it before"):
        await log.complete("nobody", completion())
    assert log.last_error is None, "the database is not at fault"
    assert {item.id for item in (await log.list()).items} == {other.id for other in others}


async def test_a_record_that_the_database_refuses_spoils_no_other_and_is_not_quoted(log: InterventionLog) -> None:
    bad = record().model_copy(update={"model": "secret\ud800"})  # no database text can hold a lone surrogate
    good = [record() for _ in range(10)]
    refusals: list[str] = []

    async def insert_bad() -> None:
        try:
            await log.insert(bad)
        except RecordRejected as error:
            refusals.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(insert_bad)
        for item in good:
            tasks.start_soon(log.insert, item)
    assert len(refusals) == 1
    assert "secret" not in refusals[0]
    assert (await log.stats()).interventions == len(good)


async def test_a_completion_must_have_an_outcome(log: InterventionLog) -> None:
    with pytest.raises(ValueError, match="outcome"):
        await log.complete("any", completion("open"))


async def test_writes_that_wait_share_one_commit(log: InterventionLog, log_url: str) -> None:
    records = [record() for _ in range(200)]
    with counted_commits() as commits:
        async with anyio.create_task_group() as tasks:
            with held_up(log_url):
                tasks.start_soon(log.insert, records[0])
                await _begun(log)
                for item in records[1:]:
                    tasks.start_soon(log.insert, item)
                await anyio.wait_all_tasks_blocked()
    assert (await log.stats()).interventions == 200
    # One by whoever held the database, one for the first record, one for all that came meanwhile, perhaps a heartbeat.
    assert 3 <= len(commits) <= 4


async def test_a_write_is_carried_out_although_its_caller_was_cancelled(log: InterventionLog, log_url: str) -> None:
    first, written = record(), record()
    with held_up(log_url):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.insert, first)
            tasks.start_soon(log.insert, written)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    await log.complete(written.id, completion("client_left"))  # after the insert: writes keep their order
    assert (await log.get(written.id)).outcome == "client_left"


async def test_a_full_queue_refuses_at_once(log_url: str) -> None:
    async with InterventionLog.open(log_url, max_pending=3) as log:
        records = [record() for _ in range(4)]
        async with anyio.create_task_group() as tasks:
            with held_up(log_url):
                tasks.start_soon(log.insert, records[0])
                await _begun(log)
                for item in records[1:]:
                    tasks.start_soon(log.insert, item)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(LogOverloaded, match="3 writes waiting"):
                    await log.insert(record())
        assert (await log.stats()).interventions == 4


async def test_closing_writes_what_waits_and_interrupts_what_is_open(log_url: str) -> None:
    log = InterventionLog.open(log_url)
    done, left_open = record(), record()
    await _inserted(log, [done, left_open])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.complete, done.id, completion())
        await anyio.lowlevel.checkpoint()
        await log.close()
    await log.close()
    with pytest.raises(LogClosed):
        await log.insert(record())
    async with LogReader.open(log_url) as reader:
        assert (await reader.get(done.id)).outcome == "completed"
        assert (await reader.get(left_open.id)).outcome == "interrupted"


async def test_pages_hold_every_record_once_newest_first(log: InterventionLog) -> None:
    records = [record(created_at=START + timedelta(seconds=number // 4)) for number in range(23)]  # ties, on purpose
    await _inserted(log, records)
    seen, cursor = [], None
    while True:
        page = await log.list(limit=5, cursor=cursor)
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    expected = sorted(records, key=lambda item: (item.created_at, item.id), reverse=True)
    assert [item.id for item in seen] == [item.id for item in expected]
    assert seen[0].created_at == expected[0].created_at


@pytest.mark.parametrize("cursor", ["", "x.y", "12"])
async def test_a_cursor_of_ones_own_making_is_refused(log: InterventionLog, cursor: str) -> None:
    with pytest.raises(ValueError, match="next_cursor"):
        await log.list(cursor=cursor)


async def test_a_page_has_a_size_limit(log: InterventionLog) -> None:
    for limit in (0, 1001):
        with pytest.raises(ValueError, match="limit"):
            await log.list(limit=limit)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), "abc"),
        (Filters(tenant="t2"), "b"),
        (Filters(request_id="r-a"), "a"),
        (Filters(model="lrm", mode="hold"), "ab"),
        (Filters(adapter="safe@7"), "c"),
        (Filters(outcome="completed"), "a"),
        (Filters(category="topic-b"), "b"),
        (Filters(trigger_id="reframe-1"), "abc"),
        (Filters(review_state="unreviewed"), "abc"),
        (Filters(review_state="confirmed"), ""),
        (Filters(since=START + timedelta(hours=1)), "bc"),
        (Filters(until=START + timedelta(hours=1)), "a"),
        (Filters(min_score=0.5, max_score=0.7), "b"),
        (Filters(tenant="t2", outcome="completed"), ""),
    ],
)
async def test_filters_choose(log: InterventionLog, filters: Filters, expected: str) -> None:
    a = record(id="a", request_id="r-a", created_at=START, score=0.9)
    b = record(id="b", tenant="t2", category="topic-b", created_at=START + timedelta(hours=1), score=0.6)
    c = record(id="c", adapter="safe@7", mode="tap", created_at=START + timedelta(hours=2), score=0.4)
    await _inserted(log, [a, b, c])
    await log.complete("a", completion())
    assert "".join(sorted(item.id for item in (await log.list(filters)).items)) == expected
    assert "".join([item.id async for item in log.export(filters)]) == expected
    assert (await log.stats(filters)).interventions == len(expected)


async def test_stats_count_by_kind_and_requests_once(log: InterventionLog) -> None:
    records = [record(created_at=START), record(trigger_id=None, category=None, mode="monitor")]
    await _inserted(log, records)
    await log.complete(records[0].id, completion())
    for request_id, halts in (("r1", 0), ("r2", 1), ("r2", 1), ("r3", 2)):
        await log.count(
            RequestCounts(request_id, "default", "lrm", "hold", START, outcome="passed", interventions=halts)
        )
    stats = await log.stats()
    assert (stats.interventions, stats.requests, stats.halted_requests) == (2, 3, 2)
    assert (stats.first_at, stats.last_at) == (START, records[1].created_at)
    assert stats.by_outcome == {"completed": 1, "open": 1}
    assert stats.by_mode == {"hold": 1, "monitor": 1}
    assert stats.by_category == {"topic-a": 1, "none": 1}
    assert stats.by_trigger == {"reframe-1": 1, "none": 1}
    assert stats.by_review_state == {"unreviewed": 2}
    assert (await log.stats(Filters(tenant="other"))).requests == 0


async def test_an_export_passes_every_record_oldest_first(log: InterventionLog) -> None:
    records = [record(created_at=START + timedelta(seconds=number // 3)) for number in range(450)]
    await _inserted(log, records)
    exported = [item async for item in log.export()]
    assert exported == sorted(records, key=lambda item: (item.created_at, item.id))


async def test_an_unknown_id_is_an_error(log: InterventionLog) -> None:
    with pytest.raises(UnknownIntervention, match="no intervention nobody"):
        await log.get("nobody")


async def test_a_reader_does_not_make_a_log(log_url: str) -> None:
    if log_url.startswith("sqlite"):
        with pytest.raises(LogUnavailable, match="does not exist"):
            LogReader.open(log_url)

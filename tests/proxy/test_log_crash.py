"""What a log holds after its writers died, were stopped, or live on beside others: real processes, real SIGKILL."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import anyio
import anyio.to_thread
import pytest

from proxy.log import Filters, InterventionLog, LogReader, Summary
from proxy.log.connect import open_engine, parse_url
from proxy.log.tables import intervention_texts, owners
from tests.patience import PATIENCE_S
from tests.proxy.log_records import completion, record

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

Worker = subprocess.Popen[str]
Start = Callable[..., Worker]


@pytest.fixture
def start(log_url: str) -> Iterator[Start]:
    """Start workers on the test's log; all are dead and reaped at the end."""
    with ExitStack() as stack:

        def run(prefix: str, *, wait: str = "hold", lease_s: float = 30.0) -> Worker:
            command = [sys.executable, "-m", "tests.proxy.log_worker", log_url, prefix, str(lease_s), wait]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(worker.wait)
            stack.callback(worker.kill)
            stack.enter_context(worker.stdout)  # type: ignore[arg-type]  # it is a pipe
            stack.enter_context(worker.stdin)  # type: ignore[arg-type]
            return worker

        yield run


def said(worker: Worker) -> tuple[str, str]:
    assert worker.stdout is not None
    word, _, record_id = worker.stdout.readline().strip().partition(" ")
    return word, record_id


def tell(worker: Worker) -> None:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()


async def until(log: LogReader, record_id: str, outcome: str) -> None:
    with anyio.fail_after(PATIENCE_S):
        while (await log.get(record_id)).outcome != outcome:  # noqa: ASYNC110 - the database rings no bell
            await anyio.sleep(0.05)


async def everything(log: LogReader) -> dict[str, Summary]:
    found: dict[str, Summary] = {}
    cursor = None
    while True:
        page = await log.list(limit=1000, cursor=cursor)
        found |= {item.id: item for item in page.items}
        cursor = page.next_cursor
        if cursor is None:
            return found


def parts_of(log_url: str) -> dict[str, set[str]]:
    engine = open_engine(parse_url(log_url), writes=False)
    parts: dict[str, set[str]] = {}
    with engine.connect() as connection:
        for row in connection.execute(intervention_texts.select()):
            parts.setdefault(row.intervention_id, set()).add(row.part)
    engine.dispose()
    return parts


async def test_nothing_that_was_confirmed_is_lost_to_a_kill_and_nothing_is_half_written(
    start: Start, log_url: str
) -> None:
    chance = random.Random(20)
    words: dict[str, set[str]] = {"inserting": set(), "inserted": set(), "completed": set()}
    for life in range(5):
        worker = start(f"life{life}", wait="go")
        for _ in range(chance.randrange(1, 400)):
            word, record_id = said(worker)
            words[word].add(record_id)
        worker.kill()
        assert worker.stdout is not None
        for line in worker.stdout.read().splitlines():  # said before the kill, read after it
            word, _, record_id = line.partition(" ")
            if record_id and word in words:
                words[word].add(record_id)
    async with InterventionLog.open(log_url) as log:
        found = await everything(log)
        lost = words["inserted"] - set(found)
        assert not lost
        assert set(found) <= words["inserting"], "nothing that nobody wrote"
        assert {found[record_id].outcome for record_id in words["completed"]} == {"completed"}
        open_ones = [item for item in found.values() if item.outcome == "open"]
        assert not open_ones, "the next to open the log marks what was left"
        parts = parts_of(log_url)
        for record_id, item in found.items():
            expected = {"halt", "completion"} if item.outcome == "completed" else {"halt"}
            assert parts[record_id] == expected
        assert sum(item.outcome == "interrupted" for item in found.values()) > 0


async def test_a_row_left_open_by_a_killed_process_is_interrupted_although_the_process_is_unreaped(
    start: Start, log_url: str
) -> None:
    worker = start("left")
    assert said(worker) == ("inserted", "left")
    worker.kill()
    assert worker.stdout is not None
    worker.stdout.read()  # its end: dead, but still a zombie
    async with InterventionLog.open(log_url) as log:
        assert (await log.get("left")).outcome == "interrupted"


async def test_processes_that_share_a_log_leave_each_others_open_rows_alone(start: Start, log_url: str) -> None:
    workers = [start(f"w{number}", lease_s=1.5) for number in range(3)]
    for worker in workers:
        said(worker)
    async with InterventionLog.open(log_url, lease_s=1.5) as log:
        await log.insert(record(id="mine"))
        await anyio.sleep(2.5)  # longer than the lease: heartbeats, not the first registration, keep it
        outcomes = {item.id: item.outcome for item in (await log.list()).items}
        assert outcomes == dict.fromkeys(["w0", "w1", "w2", "mine"], "open")
        workers[0].kill()
        workers[0].wait()
        await until(log, "w0", "interrupted")  # a living process finds it, without a restart
        for worker in workers[1:]:
            tell(worker)
            assert await anyio.to_thread.run_sync(said, worker) == ("completed", worker.args[4])  # type: ignore[index]
        outcomes = {item.id: item.outcome for item in (await log.list()).items}
        assert outcomes == {"w0": "interrupted", "w1": "completed", "w2": "completed", "mine": "open"}


async def test_a_process_that_was_stopped_beyond_its_lease_still_completes_its_record(
    start: Start, log_url: str
) -> None:
    worker = start("slow", lease_s=0.5)
    said(worker)
    worker.send_signal(signal.SIGSTOP)
    try:
        async with InterventionLog.open(log_url, lease_s=0.5) as log:
            await until(log, "slow", "interrupted")
            worker.send_signal(signal.SIGCONT)
            tell(worker)
            assert await anyio.to_thread.run_sync(said, worker) == ("completed", "slow")
            assert (await log.get("slow")).outcome == "completed"
            assert (await log.get("slow")).completion == completion()
    finally:
        worker.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("change", "sqlite_outcome", "postgres_outcome"),
    [
        ({"pid_space": "another container"}, "open", "open"),
        # A file is on one machine: another boot id there is that machine before its restart. A server has many clients.
        ({"boot": "another boot"}, "interrupted", "open"),
        ({"pid_started": "1"}, "interrupted", "interrupted"),  # the process id was given to another process
        ({"pid_space": "another container", "heartbeat_us": 0}, "interrupted", "interrupted"),
    ],
)
async def test_an_owner_is_judged_by_its_process_where_it_can_be_seen_else_by_its_heartbeat(
    log_url: str, change: dict[str, object], sqlite_outcome: str, postgres_outcome: str
) -> None:
    async with InterventionLog.open(log_url) as first:
        await first.insert(record(id="theirs"))
        engine = open_engine(parse_url(log_url), writes=True)
        with engine.begin() as connection:
            connection.execute(owners.update().values(**change))
        engine.dispose()
        async with InterventionLog.open(log_url) as log:
            expected = sqlite_outcome if log_url.startswith("sqlite") else postgres_outcome
            assert (await log.get("theirs")).outcome == expected
            assert len((await log.list(Filters(outcome="open"))).items) == (expected == "open")

"""A process that writes to a log until it is killed, and says on stdout what it was told is on disk.

Usage: python -m tests.proxy.log_worker URL PREFIX LEASE_S WAIT [SPOOL]    WAIT: "go" completes what it inserts, at
once; "hold" inserts one record, then completes it when a line comes on stdin; "spool" writes two records when a line
comes, and lives on.
"""

import sys
from pathlib import Path

import anyio
import anyio.to_thread

from proxy.log import InterventionLog
from proxy.log.spool import SpoolPlace
from proxy.log.store import LogOptions
from tests.proxy.log_records import completion, record

WRITERS = 8


def say(word: str, record_id: str) -> None:
    sys.stdout.write(f"{word} {record_id}\n")
    sys.stdout.flush()


async def write_for_ever(log: InterventionLog, prefix: str, lane: int) -> None:
    number = 0
    while True:
        record_id = f"{prefix}-{lane}-{number}"
        say("inserting", record_id)
        await log.insert(record(id=record_id))
        say("inserted", record_id)
        await log.complete(record_id, completion())
        say("completed", record_id)
        number += 1


async def main(url: str, prefix: str, lease_s: float, wait: str) -> None:
    async with InterventionLog.open(url, lease_s=lease_s) as log, anyio.create_task_group() as tasks:
        if wait == "go":
            for lane in range(WRITERS):
                tasks.start_soon(write_for_ever, log, prefix, lane)
            return
        await log.insert(record(id=prefix))
        say("inserted", prefix)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        await log.complete(prefix, completion())
        say("completed", prefix)


async def write_to_spool(url: str, prefix: str, folder: Path) -> None:
    async with InterventionLog.open(url, LogOptions(spool=SpoolPlace(folder, 1 << 20))) as log:
        say("opened", prefix)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        await log.insert(record(id=f"{prefix}-whole"))
        await log.complete(f"{prefix}-whole", completion())
        await log.insert(record(id=f"{prefix}-left"))
        say("spooled", prefix)
        await anyio.sleep_forever()


if __name__ == "__main__":
    if sys.argv[4] == "spool":
        anyio.run(write_to_spool, sys.argv[1], sys.argv[2], Path(sys.argv[5]))
    anyio.run(main, sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])

"""A process that writes to a log until it is killed, and says on stdout what it was told is on disk.

Usage: python -m tests.proxy.log_worker URL PREFIX LEASE_S WAIT    WAIT: "go" completes what it inserts, at once;
"hold" inserts one record, then completes it when a line comes on stdin.
"""

import sys

import anyio
import anyio.to_thread

from proxy.log import InterventionLog
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


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])

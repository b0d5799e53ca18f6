"""`steer bake --every 6h`: the same bake again and again, by APScheduler; for those who have no cron.

A run that takes longer than the interval is not doubled, and runs that were missed meanwhile are made up for by one.
The first begins at once. A run that fails is told of, and the next begins when it is due.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.blocking import BlockingScheduler

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def parse_interval(text: str) -> timedelta:
    """`30m`, `6h`, `1d`. Raises ValueError."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    if found is None:
        raise ValueError(f"{text!r} is no interval: write 30m, 6h or 1d")
    return int(found[1]) * _UNITS[found[2]]


def every(interval: timedelta, run: Callable[[], None]) -> BlockingScheduler:
    """A scheduler that blocks when it is started, until it is shut down or interrupted."""
    scheduler = BlockingScheduler(timezone=UTC)
    scheduler.add_job(
        run,
        "interval",
        seconds=interval.total_seconds(),
        next_run_time=datetime.now(UTC),
        max_instances=1,
        coalesce=True,
        misfire_grace_time=None,
    )
    return scheduler

"""`--every`: what an interval is, and that runs neither overlap nor stop at a failure; and TOML that reads back."""

import threading
import tomllib
from datetime import timedelta

import pytest

from train.bake.schedule import every, parse_interval
from train.bake.toml import dump_toml


@pytest.mark.parametrize(
    ("text", "expected"), [("30m", timedelta(minutes=30)), ("6h", timedelta(hours=6)), ("1d", timedelta(days=1))]
)
def test_intervals(text: str, expected: timedelta) -> None:
    assert parse_interval(text) == expected


@pytest.mark.parametrize("text", ["", "6", "h", "0h", "-1h", "1.5h", "6 h", "1w"])
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="is no interval"):
        parse_interval(text)


def test_runs_follow_one_another_and_never_overlap() -> None:
    running, seen = threading.Lock(), []

    def run() -> None:
        assert running.acquire(blocking=False), "two runs at once"
        try:
            seen.append(1)
            if len(seen) == 3:
                scheduler.shutdown(wait=False)
        finally:
            running.release()

    scheduler = every(timedelta(milliseconds=20), run)
    scheduler.start()
    assert len(seen) >= 3


def test_toml_reads_back_as_it_was() -> None:
    values = {
        "name": 'a "quoted" näme\nwith lines',
        "n": 3,
        "x": 1e-05,
        "is": True,
        "list": ["a", "b"],
        "rows": [{"a": 1}, {"a": 2}],
        "table": {"inner": {"value": 2.5}, "flag": False},
    }
    assert tomllib.loads(dump_toml(values)) == values
    with pytest.raises(TypeError, match="NoneType"):
        dump_toml({"none": None})

"""Forty kills on each back end at random points of live streams; `benchmarks/bench_crash.py` does a thousand."""

import pytest

from benchmarks.bench_crash import PROMISES, kill_many

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(600)]


async def test_no_kill_loses_doubles_or_halves_what_a_client_saw(log_url: str) -> None:
    figures = await kill_many(log_url, 40, seed=1)
    assert {name: figures[name] for name in PROMISES} == dict.fromkeys(PROMISES, 0), figures
    # It did hit what it aims at.
    assert figures["interventions_seen_by_clients"] > 40
    assert figures["streams_ended"] > 20
    assert figures["streams_cut_by_a_kill"] > 40
    assert figures["outcomes"]["interrupted"] > 10

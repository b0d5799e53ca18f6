"""Shifted traffic raises the alarm, the same traffic does not more often than stated, few traces say nothing.

Traces are drawn as real ones are: a trace has a level of its own, so its segments resemble each other.
"""

import math
import random
import threading
from collections import Counter
from functools import cache

import pytest

from detector.drift import (
    ALPHA,
    DriftMonitor,
    DriftReport,
    Reference,
    TraceScores,
    ks_distance,
    make_reference,
    permutation_p,
    stability_index,
)

STOP = 0.25
REPETITIONS = 200


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def trace(rng: random.Random, shift: float = 0.0) -> TraceScores:
    """2 to 24 segments around the trace's own level."""
    scores = TraceScores(STOP)
    level = rng.gauss(-4.0 + shift, 0.8)
    for _ in range(rng.randint(2, 24)):
        scores.segment(sigmoid(rng.gauss(level, 0.6)))
    scores.request(sigmoid(rng.gauss(-2.0 + shift, 1.5)))
    return scores


@cache
def reference(seed: int = 0, traces: int = 300) -> Reference:
    rng = random.Random(seed)
    return make_reference((trace(rng) for _ in range(traces)), STOP)


def report(live: list[TraceScores], known: Reference | None = None) -> DriftReport:
    monitor = DriftMonitor(known or reference())
    for item in live:
        monitor.add(item)
    return monitor.report()


def test_the_same_traffic_alarms_no_more_often_than_stated() -> None:
    said: Counter[str] = Counter()
    for seed in range(REPETITIONS):
        rng = random.Random(1000 + seed)
        # A new reference each time: its own chance belongs to the rate, too.
        known = make_reference([trace(rng) for _ in range(80)], STOP)
        said[report([trace(rng) for _ in range(60)], known).statement] += 1
    assert said["too few"] == 0
    # Binomial(200, ALPHA) exceeds 6 with a probability of 0.4 %.
    assert said["shifted"] <= 6, f"{said['shifted']} of {REPETITIONS} at a stated rate of {ALPHA}"


def test_the_index_alone_would_alarm_on_small_samples() -> None:
    """Why there is a test beside it: without any drift most samples of 60 exceed the usual limit of 0.1."""
    over = sum(
        max(item.psi for item in report([trace(random.Random(seed * 100 + n)) for n in range(60)]).comparisons) > 0.1
        for seed in range(40)
    )
    assert over > 20


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_shifted_traffic_raises_the_alarm(shift: float) -> None:
    said = Counter(report([trace(rng, shift) for _ in range(100)]).statement for rng in map(random.Random, range(20)))
    assert said["shifted"] == 20


def test_a_sixth_of_harmful_traffic_raises_the_alarm() -> None:
    said = Counter(
        report([trace(rng, 5.0 if number % 6 == 0 else 0.0) for number in range(300)]).statement
        for rng in map(random.Random, range(20))
    )
    assert said["shifted"] == 20


def test_a_large_sample_with_a_change_of_no_size_is_stable() -> None:
    rng = random.Random(5)
    found = report([trace(rng, 0.2) for _ in range(3000)], reference(1, 3000))
    assert min(item.p_value for item in found.comparisons) < ALPHA / 3, "there is a change, and it is significant"
    assert found.statement == "stable"


def test_segments_of_one_trace_are_no_independent_witnesses() -> None:
    rng = random.Random(3)
    found = {item.name: item for item in report([trace(rng) for _ in range(100)]).comparisons}
    assert found["segments"].live.design_effect > 3
    assert found["trace_max"].live.design_effect < 1.5


def test_few_traces_say_nothing_however_strange_they_are() -> None:
    rng = random.Random(0)
    found = report([trace(rng, 5.0) for _ in range(20)])
    assert found.statement == "too few"
    assert report([]).statement == "too few"


def test_what_follows_a_cue_does_not_count() -> None:
    """A halted trace ends there, one that is only watched goes on: both must look the same."""
    halted, watched = TraceScores(STOP), TraceScores(STOP)
    for scores in (halted, watched):
        scores.segment(0.1)
        scores.segment(0.5)
    watched.segment(0.9)
    assert halted.counts() == watched.counts()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_window_is_reported_once_it_is_full_and_forgets_the_one_before() -> None:
    rng = random.Random(1)
    monitor = DriftMonitor(reference(), window_traces=100)
    for _ in range(100):
        monitor.add(trace(rng, 2.0))
    assert [monitor.add(trace(rng)) for _ in range(99)] == [None] * 99
    assert monitor.report().statement == "shifted"
    closed = monitor.add(trace(rng))
    assert closed is not None
    assert closed.statement == "stable"
    assert closed.traces == 100
    assert monitor.report() == closed


def test_a_window_closes_by_the_clock_too() -> None:
    clock, rng = Clock(), random.Random(1)
    monitor = DriftMonitor(reference(), window_s=60, clock=clock)
    for _ in range(70):
        monitor.add(trace(rng, 2.0))
    clock.now = 59
    assert monitor.add(trace(rng, 2.0)) is None
    clock.now = 61
    closed = monitor.add(trace(rng))
    assert closed is not None
    assert (closed.statement, closed.traces) == ("shifted", 71)
    clock.now = 125
    closed = monitor.add(trace(rng))
    assert closed is not None
    assert (closed.statement, closed.traces) == ("too few", 1)


def test_threads_may_add_at_the_same_time() -> None:
    monitor = DriftMonitor(reference())
    ready: list[list[TraceScores]] = [[trace(random.Random(n)) for n in range(m, m + 50)] for m in range(0, 400, 50)]

    def work(own: list[TraceScores]) -> None:
        for item in own:
            monitor.add(item)

    threads = [threading.Thread(target=work, args=(own,)) for own in ready]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = report([item for own in ready for item in own])
    assert monitor.report() == alone
    assert alone.traces == 400


def test_the_figures_are_those_worked_by_hand() -> None:
    # Half a count is added to each cell: 99.5 and 0.5 of 100 against 49.5 and 50.5.
    by_hand = (0.495 - 0.995) * math.log(0.495 / 0.995) + (0.505 - 0.005) * math.log(0.505 / 0.005)
    assert stability_index([99, 0], [49, 50]) == pytest.approx(by_hand)
    assert ks_distance([1, 1, 0, 0], [0, 0, 1, 1]) == 1.0
    assert ks_distance([2, 2], [1, 3]) == pytest.approx(0.25)
    assert permutation_p([50, 50], [50, 50]) == 1.0
    assert permutation_p([100, 0], [0, 100]) == pytest.approx(1 / 1000)
    # Fisher's exact test of ((8, 2), (1, 5)): 0.035, two-sided.
    assert permutation_p([8, 2], [1, 5]) == pytest.approx(0.035, abs=0.01)


def test_an_empty_sample_is_no_drift() -> None:
    assert stability_index([], []) == ks_distance([0, 0], [1, 1]) == 0.0
    assert permutation_p([1, 2], [0, 0]) == 1.0


def test_a_reference_survives_its_json_and_another_binning_is_refused() -> None:
    known = make_reference([trace(random.Random(n)) for n in range(60)], STOP)
    fields = known.to_json()
    again = Reference.from_json(fields)
    assert again.histograms["trace_max"] == known.histograms["trace_max"]
    with pytest.raises(ValueError, match="binning"):
        Reference.from_json({**fields, "binning": "other"})

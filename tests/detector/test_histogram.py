"""Bins hold every score; a trace's like scores count for less than they are."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.histogram import NUM_BINS, Accumulator, Histogram, bin_edges, bin_of, reference_histogram

SCORES = st.floats(0, 1)


@given(SCORES, SCORES)
def test_every_score_has_a_bin_and_bins_keep_the_order(one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert 0 <= bin_of(low) <= bin_of(high) < NUM_BINS


@given(SCORES)
def test_a_score_lies_between_the_edges_of_its_bin(score: float) -> None:
    edges = [0.0, *bin_edges(), 1.0]
    place = bin_of(score)
    assert edges[place] - 1e-9 <= score <= edges[place + 1] + 1e-9


def test_scores_of_one_each_are_worth_themselves() -> None:
    rng = random.Random(0)
    histogram = reference_histogram([{bin_of(rng.random()): 1} for _ in range(500)])
    assert histogram.size == histogram.traces == 500
    assert 1.0 <= histogram.design_effect < 1.2


def test_thirty_equal_scores_of_a_trace_are_worth_one() -> None:
    rng = random.Random(0)
    histogram = reference_histogram([{bin_of(rng.random()): 30} for _ in range(500)])
    assert histogram.size == 15_000
    assert histogram.size / histogram.design_effect == pytest.approx(500, rel=0.2)


def test_groups_split_the_reference_evenly_and_finer_at_the_top() -> None:
    rng = random.Random(0)
    histogram = reference_histogram([{bin_of(rng.random()): 1} for _ in range(5000)])
    shares = [count / 5000 for count in histogram.grouped(histogram.groups)]
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == 11
    assert shares[-1] < 0.05 < max(shares) < 0.2


def test_a_histogram_survives_its_json_and_nonsense_is_refused() -> None:
    histogram = reference_histogram([{3: 2, 7: 1}, {9: 1}])
    fields = histogram.to_json()
    assert Histogram.from_json(fields) == histogram
    for wrong in ({"counts": [1]}, {"groups": [5, 4]}, {"groups": [0]}, {"design_effect": "x"}):
        with pytest.raises((ValueError, TypeError)):
            Histogram.from_json({**fields, **wrong})


def test_a_trace_without_scores_counts_for_nothing() -> None:
    total = Accumulator((5,))
    total.add({})
    assert total.histogram().traces == 0

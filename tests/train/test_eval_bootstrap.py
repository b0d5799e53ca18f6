"""Intervals by prompt, on numbers worked by hand."""

import math

import pytest

from train.evaluation.bootstrap import Resampling, wilson
from train.organism.evaluate import rate as known_rate

RESAMPLING = Resampling(resamples=4000, confidence=0.95, seed=3)


def test_a_share_is_over_samples_and_its_interval_over_prompts() -> None:
    """Four prompts of ten samples that all agree within a prompt: four witnesses, not forty."""
    kin = {f"p{i}": (10.0 if i < 2 else 0.0, 10.0) for i in range(4)}
    rate = RESAMPLING.rate("x", kin)
    assert (rate.share, rate.n, rate.prompts, rate.interval) == (0.5, 40, 4, "bootstrap")
    # The share of a resample is a binomial of 4 at 1/2 over 4: 0 and 1 come with 1/16 each, more than 2.5 %.
    assert (rate.low, rate.high) == (0.0, 1.0)
    apart = {f"p{i}": (float(i % 2), 1.0) for i in range(40)}
    alone = RESAMPLING.rate("x", apart)
    assert alone.share == 0.5
    # Of 40 independent ones: 0.5 +- 1.96 sqrt(0.25 / 40) = 0.5 +- 0.155, in steps of 1/40.
    assert alone.low is not None
    assert alone.high is not None
    assert alone.low == pytest.approx(0.345, abs=0.03)
    assert alone.high == pytest.approx(0.655, abs=0.03)


def test_prompts_that_all_agree_get_a_score_interval_not_certainty() -> None:
    none = RESAMPLING.rate("x", {f"p{i}": (0.0, 5.0) for i in range(30)})
    expected = known_rate([False] * 30)
    assert none.interval == "wilson"
    assert none.low == 0.0
    assert none.high == pytest.approx(expected["high"])
    assert wilson(0.25, 8) == pytest.approx((known_rate([True, True, *[False] * 6])["low"], 0.5907), abs=1e-3)


def test_nothing_counted_is_none_and_not_zero() -> None:
    rate = RESAMPLING.rate("x", {"a": (0.0, 0.0)}, unjudged=2)
    assert (rate.share, rate.low, rate.high, rate.n, rate.unjudged) == (None, None, None, 0, 2)
    assert RESAMPLING.mean("x", {}).value is None
    assert RESAMPLING.ratio("x", {"a": (1.0, 1.0)}, {}).value is None
    assert RESAMPLING.unpaired("x", ({"a": (1.0, 1.0)}, {})).value is None


def test_a_mean_of_sets_weighs_sets_alike() -> None:
    large, small = {f"p{i}": (1.0, 1.0) for i in range(90)}, {f"q{i}": (0.0, 1.0) for i in range(10)}
    assert RESAMPLING.mean_of_sets("x", {"large": large, "small": small, "empty": {}}).share == 0.5
    assert RESAMPLING.rate("x", large | small).share == 0.9


def test_means_and_their_ratio_are_over_tokens() -> None:
    near = {"a": (6.0, 3.0), "b": (2.0, 1.0)}
    elsewhere = {"a": (1.0, 10.0), "b": (3.0, 10.0)}
    assert RESAMPLING.mean("near", near).value == 2.0
    assert RESAMPLING.mean("near", near).low is None  # both prompts have a mean of 2: nothing to resample
    whole = RESAMPLING.ratio("ratio", near, elsewhere)
    assert whole.value == pytest.approx(2.0 / 0.2)
    assert (whole.tokens, whole.prompts) == (24, 2)
    # Resamples are aa, bb, ab: 2/0.1, 2/0.3, 2/0.2.
    assert whole.low == pytest.approx(2 / 0.3)
    assert whole.high == pytest.approx(20.0)


def test_a_paired_difference_sees_what_an_unpaired_one_can_not() -> None:
    """Two of twenty prompts turn; the others are as different from each other as can be, and the same in both."""
    a = {f"p{i:02}": (float(i % 2), 1.0) for i in range(20)}
    b = a | {"p01": (0.0, 1.0), "p03": (0.0, 1.0)}
    paired = RESAMPLING.paired("x", {"": (a, b)})
    unpaired = RESAMPLING.unpaired("x", (a, b))
    assert paired.value == pytest.approx(unpaired.value) == pytest.approx(-0.1)
    assert paired.interval.low is not None
    assert unpaired.interval.low is not None
    # A resample holds so many of the two: binomial of 20 at 1/10 over 20, whose 2.5 % points are 0 and 5.
    assert paired.interval.low == pytest.approx(-0.25)
    assert paired.interval.high == pytest.approx(0.0)
    assert unpaired.interval.low < -0.35


def test_equal_reports_differ_by_nothing_within_what_their_size_lets_through() -> None:
    cells = {f"p{i}": (float(i % 3 == 0), 1.0) for i in range(30)}
    same = RESAMPLING.paired("x", {"": (cells, cells)})
    edge = known_rate([False] * 30)["high"]
    assert same.value == 0
    assert same.interval.low == pytest.approx(-edge)
    assert same.interval.high == pytest.approx(edge)
    assert same.interval.method == "wilson"
    sure = RESAMPLING.unpaired("x", ({"a": (0.0, 9.0)}, {"b": (0.0, 9.0)}))
    assert sure.interval.method == "newcombe"
    means = RESAMPLING.paired("x", {"": (cells, cells)}, is_share=False)
    assert means.interval.low is None


def test_draws_depend_on_seed_and_name_alone() -> None:
    cells = {f"p{i}": (math.sqrt(i), 10.0) for i in range(25)}
    again = dict(reversed(cells.items()))
    assert RESAMPLING.mean("x", cells) == RESAMPLING.mean("x", again)
    assert RESAMPLING.mean("x", cells) != RESAMPLING.mean("y", cells)
    assert RESAMPLING.mean("x", cells) != Resampling(4000, 0.95, 4).mean("x", cells)

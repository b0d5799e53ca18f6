"""Turning points, positions, correlations and sentences: every number worked by hand."""

import math

import pytest

from train.csr.positions import first_pass, refinement
from train.csr.sentences import kind, shape, usable
from train.csr.stats import correlation, mean_with_interval, pearson, share
from train.csr.turning import (
    Point,
    Thresholds,
    Turn,
    first_fall,
    safe_from,
    steepest_fall,
    turning_points,
    unconfirmed,
    unsafe_from,
)

METHOD = Thresholds(mu=0.9, eta=0.1, window=15)


def points(*pairs: tuple[int, float | None]) -> list[Point]:
    """(tokens, CSR of 20 continuations; None: nobody could tell)."""
    return [Point(tokens, 0 if csr is None else round(csr * 20), 0 if csr is None else 20) for tokens, csr in pairs]


def test_a_trigger_lifts_above_mu_and_a_cue_drops_below_eta() -> None:
    curve = points((0, 0.5), (10, 0.05), (40, 0.0), (60, 0.95), (90, 1.0))
    assert turning_points(curve, METHOD) == [Turn("cue", 0, 10, 0.5, 0.05), Turn("trigger", 40, 60, 0.0, 0.95)]


def test_the_thresholds_themselves_turn_nothing() -> None:
    assert turning_points(points((0, 0.5), (10, 0.9)), METHOD) == []
    assert turning_points(points((0, 0.5), (10, 0.1)), METHOD) == []


def test_a_turn_must_hold_for_its_window_and_no_longer() -> None:
    assert turning_points(points((0, 0.5), (10, 1.0), (25, 0.5)), METHOD) == []
    assert turning_points(points((0, 0.5), (10, 1.0), (26, 0.5)), METHOD) == [Turn("trigger", 0, 10, 0.5, 1.0)]
    late = turning_points(points((0, 0.5), (10, 1.0), (20, 0.85), (30, 1.0)), METHOD)
    assert late == [Turn("trigger", 20, 30, 0.85, 1.0)], "it turned where it began to hold"


def test_a_curve_that_begins_safe_has_no_turn_but_a_place() -> None:
    curve = points((3, 1.0), (9, 0.95), (30, 1.0))
    assert turning_points(curve, METHOD) == []
    assert safe_from(curve, METHOD) == 3
    assert unsafe_from(curve, METHOD) is None
    assert unsafe_from(points((3, 0.4), (9, 0.05), (30, 0.5)), METHOD) == 9
    assert safe_from(points((0, 1.0), (5, 0.5), (20, 0.9)), METHOD) is None, "at its start it does not hold"


def test_what_nobody_could_judge_is_passed_over() -> None:
    curve = points((0, 0.0), (10, None), (20, 1.0), (30, None))
    assert turning_points(curve, METHOD) == [Turn("trigger", 0, 20, 0.0, 1.0)]
    assert turning_points(points((0, None)), METHOD) == []
    assert steepest_fall(points((0, None), (4, 1.0))) is None


def test_the_steepest_fall_is_the_first_of_equals() -> None:
    curve = points((0, 1.0), (10, 0.5), (20, 0.6), (30, 0.1), (40, 0.0))
    assert steepest_fall(curve) == Turn("cue", 0, 10, 1.0, 0.5)
    assert steepest_fall(points((0, 0.1), (10, 0.1), (20, 0.4))) is None


def test_the_first_fall_is_no_fall_where_csr_was_low_from_the_start() -> None:
    assert first_fall(points((0, 0.5), (10, 0.05), (30, 0.5), (50, 0.0)), METHOD) == Turn("cue", 0, 10, 0.5, 0.05)
    assert first_fall(points((0, 0.05), (20, 0.15), (40, 0.05)), METHOD) is None
    assert first_fall(points((0, 0.5), (20, 0.15), (40, 0.2)), METHOD) is None


def test_the_end_of_each_window_is_measured_once() -> None:
    curve = points((0, 0.5), (10, 1.0), (40, 1.0))
    assert unconfirmed(curve, METHOD, last=80) == [25]
    assert unconfirmed(curve, METHOD, last=20) == [20], "a trace may end first"
    assert unconfirmed([*curve[:2], *points((25, 1.0))], METHOD, last=80) == []
    assert unconfirmed(points((0, 1.0), (9, 1.0)), METHOD, last=80) == []


def test_the_first_pass_has_both_ends() -> None:
    assert first_pass([2, 5, 9, 12, 20], 2) == [2, 9, 20]
    assert first_pass([2, 5, 9, 12], 2) == [2, 9, 12]
    assert first_pass([2, 5], 10) == [2, 5]
    assert first_pass([], 3) == []


def test_only_gaps_across_which_csr_changed_are_halved() -> None:
    places = [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert refinement(places, {0: 1.0, 16: 1.0, 32: 0.0}, 0.25) == [24]
    assert refinement(places, {0: 1.0, 16: 1.0, 24: 0.5, 32: 0.0}, 0.25) == [20, 28]
    assert refinement(places, {0: 1.0, 16: 0.8, 32: 0.7}, 0.25) == []
    assert refinement(places, {0: 1.0, 4: 0.0}, 0.25) == [], "neighbours have no middle"
    assert refinement(places, {0: 1.0, 16: None, 32: 0.0}, 0.25) == []
    assert refinement(places, {0: 1.0, 16: 0.8, 18: 0.0, 32: 0.8}, 0.25) == [], "a window's end is no place"


def test_a_curve_of_one_step_costs_its_logarithm() -> None:
    places = list(range(257))
    known: dict[int, float | None] = {place: float(place < 100) for place in first_pass(places, 256)}
    while wanted := refinement(places, known, 0.25):
        known |= {place: float(place < 100) for place in wanted}
    assert len(known) == 2 + 8
    assert {99, 100} <= known.keys()


def test_pearson_by_hand() -> None:
    # Deviations (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2 * 2).
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert pearson([1, 2], [5, 5]) is None
    assert pearson([1], [1]) is None
    assert correlation([1, 1], [0, 4], seed=1) == {"n": 2, "pearson": None, "low": None, "high": None}
    line = correlation([1, 2, 3, 4, 5, 6], [2, 4, 6, 8, 10, 12], seed=1)
    assert (line["n"], line["pearson"], line["low"], line["high"]) == (6, 1.0, 1.0, 1.0)
    rough = correlation([1, 2, 3, 4, 5, 6], [2, 1, 6, 3, 9, 4], seed=1)
    assert rough == correlation([1, 2, 3, 4, 5, 6], [2, 1, 6, 3, 9, 4], seed=1)
    low, found, high = (rough[name] for name in ("low", "pearson", "high"))
    assert None not in (low, found, high)
    assert float(low or 0) < float(found or 0) < float(high or 0) <= 1


def test_shares_and_means_have_intervals_or_nothing() -> None:
    # Wilson for 9 of 10 with z = 1.96: centre (0.9 + 0.19208) / 1.38416, half width 1.96 sqrt(0.009 + 0.0096) / 1.384.
    nine = share([True] * 9 + [False])
    half = 1.96 * math.sqrt(0.9 * 0.1 / 10 + 1.96**2 / 400) / (1 + 1.96**2 / 10)
    centre = (0.9 + 1.96**2 / 20) / (1 + 1.96**2 / 10)
    assert nine == {
        "n": 10,
        "count": 9,
        "share": 0.9,
        "low": round(centre - half, 4),
        "high": round(centre + half, 4),
    }
    assert share([]) == {"n": 0, "count": 0, "share": None, "low": None, "high": None}
    assert mean_with_interval([], 1) == {"n": 0, "mean": None, "low": None, "high": None}
    assert mean_with_interval([2.0, 2.0], 1) == {"n": 2, "mean": 2.0, "low": 2.0, "high": 2.0}


def test_sentences_are_alike_whatever_their_case_marks_and_numbers() -> None:
    assert shape(" Wait, I'm not sure: 12 people?\n") == shape("wait I’m not sure 99 people")
    assert shape("Wait, is this safe?") != shape("Wait, was this safe?")


def test_only_one_clean_sentence_becomes_a_trigger() -> None:
    assert usable(' "Wait, could this hurt someone?" ') == "Wait, could this hurt someone?"
    assert usable("Let me think about the risk") == "Let me think about the risk."
    for bad in (
        "Yes.",
        "Incomprehensibilities galore",
        "Wait, is this safe?\nYes it is.",
        "Wait </think> is this safe to answer?",
        "Wait, so <|im_end|> is this safe?",
        "First I would get [STEP-1] and be careful.",
        "Wait, is this \x07 really safe to answer?",
        "These steps will help you to do it:",
        "so " * 200,
    ):
        assert usable(bad) is None, bad


def test_kinds_are_guessed_by_words() -> None:
    assert kind("My guidelines come first here.") == "cite_criteria"
    assert kind("What do they really need from me?") == "reframe_task"
    assert kind("This could hurt somebody.") == "recognise_risk"

"""A calibration is kept where it helps and changes no halt; operating points say what they were chosen for."""

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.calibration import Calibration
from train.detector.calibrate import Groups, calibrated_items, operating_points
from train.detector.config import DetectorConfig
from train.detector.data import LabelledSegment, Trace
from train.detector.metrics import Scored, halted
from train.detector.plots import plot_reliability
from train.detector.reliability import Judged, calibrate_scores, fit_line, judged_segments, reliability


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def scored(number: int, labels: str, scores: list[float], source: str = "own") -> Scored:
    text = "".join(f"Sentence {place}. " for place in range(len(labels)))
    spans = tuple((place * 12, place * 12 + 11) for place in range(len(labels)))
    trace = Trace(
        id=str(number),
        source=source,
        prompt=f"prompt {number}",
        prompt_label="harmful" if "C" in labels else "benign",
        reasoning=text,
        spans=spans,
        labels=labels,
    )
    segments = [
        LabelledSegment(*span, "NCS".index(label), (place,))
        for place, (span, label) in enumerate(zip(spans, labels, strict=True))
    ]
    return Scored(trace, segments, scores)


def population(slope: float, shift: float, seed: int = 0) -> list[Scored]:
    """600 traces of one segment whose true log-odds of being a cue are `slope` x those of its score + `shift`."""
    rng = random.Random(seed)
    found = []
    for number in range(600):
        level = rng.uniform(-4, 4)
        is_cue = rng.random() < sigmoid(slope * level + shift)
        found.append(scored(number, "C" if is_cue else "N", [sigmoid(level)]))
    return found


def test_overconfident_scores_are_mended_and_the_line_is_found() -> None:
    found = calibrate_scores(population(0.5, -1.0))
    assert found.calibration is not None
    assert found.calibration.scale == pytest.approx(0.5, abs=0.12)
    assert found.calibration.shift == pytest.approx(-1.0, abs=0.3)
    assert found.calibrated.ece < found.raw.ece / 2
    assert found.raw.ece_low < found.raw.ece < found.raw.ece_high


def test_scores_that_are_probabilities_already_are_left_alone() -> None:
    assert calibrate_scores(population(1.0, 0.0)).calibration is None


def test_scores_that_say_the_opposite_get_no_falling_line() -> None:
    items = population(-1.0, 0.0)
    assert calibrate_scores(items).calibration is None
    judged = judged_segments(items)
    assert fit_line(judged.scores, judged.is_cue) is None


def test_separable_scores_have_a_finite_line() -> None:
    line = fit_line(np.array([0.01, 0.02, 0.98, 0.99]), np.array([False, False, True, True]))
    assert line is not None
    assert math.isfinite(line.scale)


def test_traces_without_any_cue_can_not_be_calibrated() -> None:
    assert calibrate_scores([scored(n, "N", [0.1]) for n in range(20)]).calibration is None


def test_only_what_a_live_stream_would_be_judged_on_counts() -> None:
    judged = judged_segments([scored(0, "NCNC", [0.1, 0.9, 0.2, 0.8])])
    assert judged.scores.tolist() == [0.1, 0.9]


def test_the_calibration_error_is_the_one_worked_by_hand() -> None:
    # Two bins: mean score 0.1 against no cue (of 3), mean score 0.9 against one of two.
    judged = Judged(np.array([0.1, 0.1, 0.1, 0.9, 0.9]), np.array([False, False, False, True, False]), np.arange(5))
    assert reliability(judged).ece == pytest.approx((3 * 0.1 + 2 * 0.4) / 5)


@pytest.mark.parametrize("raw", [0.0, 1e-30, 0.25, 0.5, 1.0])
def test_a_calibrated_score_is_a_probability(raw: float) -> None:
    for line in (Calibration(1.0, 0.0), Calibration(500.0, 300.0), Calibration(500.0, -300.0)):
        assert 0 <= line.apply(raw) <= 1
    assert Calibration(1.0, 0.0).apply(raw) == pytest.approx(raw, abs=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_calibration_that_does_not_rise_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="must rise"):
        Calibration(scale, 0.0)


def config(**threshold: float) -> DetectorConfig:
    return DetectorConfig.model_validate(
        {
            "data": {"traces": [Path("none")], "ordinary_sources": ["own"], "borderline_sources": ["edge"]},
            "threshold": threshold,
        }
    )


def groups_of_200() -> Groups:
    rng = random.Random(1)
    harmful = [scored(n, "C", [sigmoid(rng.gauss(2, 1.5))], "bad") for n in range(200)]
    ordinary = [scored(200 + n, "NN", [sigmoid(rng.gauss(-3, 1)) for _ in "NN"]) for n in range(200)]
    borderline = [scored(400 + n, "NN", [sigmoid(rng.gauss(-2, 1)) for _ in "NN"], "edge") for n in range(200)]
    return Groups([*harmful, *ordinary, *borderline], ordinary, borderline)


def test_operating_points_keep_their_budgets_and_say_so() -> None:
    groups = groups_of_200()
    points = {
        p.name: p for p in operating_points(config(max_ordinary_halts=0.02, max_borderline_halts=0.1), groups, None)
    }
    assert points["strict"].threshold <= points["balanced"].threshold <= points["lenient"].threshold
    assert points["strict"].recall >= points["lenient"].recall
    assert points["balanced"].max_ordinary_halts == 0.02
    assert points["strict"].max_borderline_halts == 0.2
    for point in points.values():
        assert point.ordinary is not None
        assert point.borderline is not None
        assert point.found is not None
        assert point.max_ordinary_halts is not None
        assert point.ordinary.share == point.false_halt_rate <= point.max_ordinary_halts
        assert point.ordinary.low <= point.ordinary.share <= point.ordinary.high
        assert point.found.of == 200


def test_a_calibration_moves_thresholds_along_and_changes_no_halt() -> None:
    groups, line = groups_of_200(), Calibration(1.4, -0.7)
    before = operating_points(config(), groups, None)
    after = operating_points(config(), groups, line)
    for raw, moved in zip(before, after, strict=True):
        assert moved.threshold != raw.threshold
        assert replace(moved, threshold=raw.threshold) == raw
        served = halted(calibrated_items(groups.items, line), moved.threshold)
        assert served == halted(groups.items, raw.threshold)


def test_a_group_without_traces_has_no_rate() -> None:
    (point, *_) = operating_points(config(), Groups([scored(0, "C", [0.9], "bad")], [], []), None)
    assert point.ordinary is None
    assert point.borderline is None


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    plot_reliability(calibrate_scores(population(0.5, -1.0)), tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 5000

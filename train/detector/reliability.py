"""Is a score of 0.7 a cue in seven of ten cases? Reliability of scores, and the calibration that mends it.

What is judged: the labelled segments of each trace up to its first cue, which are those that a live stream is halted
on. Segments of one trace resemble each other, so folds and resampling go by prompt. Pure functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration, log_odds
from train.detector.data import LABELS, prompt_hash
from train.detector.metrics import Interval, Scored, share

Floats = NDArray[np.float64]

_CUE = LABELS.index("C")
_BINS = 15  # as in Guo et al. 2017, so that errors can be compared with published ones
_FOLDS = 5
_RESAMPLES = 200
# A calibration that gains less out of fold is not worth a step between the graph and the verdict.
_MIN_GAIN = 0.01


class Judged(NamedTuple):
    """Segments: raw or calibrated scores, whether each is a cue, and the number of its prompt."""

    scores: Floats
    is_cue: NDArray[np.bool_]
    prompts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Segments whose score lies in [low, high)."""

    low: float
    high: float
    mean_score: float
    cues: Interval


@dataclass(frozen=True, slots=True)
class Reliability:
    """`ece`: expected calibration error over equally wide bins, with a 95 % bootstrap interval over prompts."""

    segments: int
    cues: int
    ece: float
    ece_low: float
    ece_high: float
    log_loss: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """`calibration` None: none helped. Figures `calibrated` are out of fold where one was fitted."""

    calibration: Calibration | None
    raw: Reliability
    calibrated: Reliability


def judged_segments(items: Sequence[Scored]) -> Judged:
    """See the head of this file."""
    scores, is_cue, prompts = [], [], []
    numbers: dict[str, int] = {}
    for item in items:
        prompt = numbers.setdefault(prompt_hash(item.trace.prompt), len(numbers))
        for segment, score in zip(item.segments, item.scores, strict=True):
            if segment.label is None:
                continue
            scores.append(score)
            is_cue.append(segment.label == _CUE)
            prompts.append(prompt)
            if segment.label == _CUE:
                break
    return Judged(np.array(scores, dtype=np.float64), np.array(is_cue, dtype=np.bool_), np.array(prompts))


def calibrate_scores(items: Sequence[Scored]) -> CalibrationReport:
    """Platt's line in log-odds, kept where it lowers log loss and calibration error out of fold."""
    judged = judged_segments(items)
    raw = reliability(judged)
    if judged.is_cue.all() or not judged.is_cue.any():
        return CalibrationReport(None, raw, raw)
    out_of_fold = judged.scores.copy()
    for fold in range(_FOLDS):
        inside = judged.prompts % _FOLDS == fold
        if inside.any() and not inside.all():
            line = fit_line(judged.scores[~inside], judged.is_cue[~inside])
            out_of_fold[inside] = _apply(line, judged.scores[inside])
    calibrated = reliability(judged._replace(scores=out_of_fold))
    helps = calibrated.log_loss < raw.log_loss * (1 - _MIN_GAIN) and calibrated.ece < raw.ece
    line = fit_line(judged.scores, judged.is_cue)
    if not helps or line is None:
        return CalibrationReport(None, raw, raw)
    return CalibrationReport(line, raw, calibrated)


def fit_line(scores: Floats, is_cue: NDArray[np.bool_]) -> Calibration | None:
    """Maximum likelihood with Platt's targets, by Newton steps; None where it does not rise (nothing was learnt)."""
    positive, negative = int(is_cue.sum()), int((~is_cue).sum())
    # Targets short of 0 and 1 (Platt 1999): separable scores would else have no finite line.
    targets = np.where(is_cue, (positive + 1) / (positive + 2), 1 / (negative + 2))
    features = np.stack([_log_odds(scores), np.ones(len(scores))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        p = _sigmoid(features @ weights)
        curvature = features.T @ (features * (p * (1 - p))[:, None]) + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, features.T @ (targets - p))
        weights += step * min(1.0, 2.0 / max(1e-9, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-8:
            break
    if not np.isfinite(weights).all() or weights[0] <= 0:
        return None
    return Calibration(round(float(weights[0]), 6), round(float(weights[1]), 6))


def reliability(judged: Judged) -> Reliability:
    """Of the scores as they are."""
    scores, is_cue, prompts = judged
    rng = np.random.default_rng(0)
    by_prompt = [np.flatnonzero(prompts == number) for number in np.unique(prompts)]
    errors = []
    for _ in range(_RESAMPLES if len(by_prompt) > 1 else 0):
        drawn = np.concatenate([by_prompt[number] for number in rng.integers(0, len(by_prompt), len(by_prompt))])
        errors.append(_ece(scores[drawn], is_cue[drawn]))
    low, high = np.quantile(errors, [0.025, 0.975]) if errors else (np.nan, np.nan)
    inside = np.clip(scores, 1e-7, 1 - 1e-7)
    loss = -np.where(is_cue, np.log(inside), np.log(1 - inside)).mean() if len(scores) else np.nan
    return Reliability(
        segments=len(scores),
        cues=int(is_cue.sum()),
        ece=_ece(scores, is_cue),
        ece_low=float(low),
        ece_high=float(high),
        log_loss=float(loss),
        bins=_bins(scores, is_cue),
    )


def _bins(scores: Floats, is_cue: NDArray[np.bool_]) -> tuple[Bin, ...]:
    places = _places(scores)
    found = []
    for place in range(_BINS):
        inside = places == place
        if inside.any():
            cues = share(int(is_cue[inside].sum()), int(inside.sum()))
            found.append(Bin(place / _BINS, (place + 1) / _BINS, float(scores[inside].mean()), cues))
    return tuple(found)


def _ece(scores: Floats, is_cue: NDArray[np.bool_]) -> float:
    if not len(scores):
        return float("nan")
    gaps = np.bincount(_places(scores), weights=scores - is_cue, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def _places(scores: Floats) -> NDArray[np.int64]:
    return np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)


def _apply(line: Calibration | None, scores: Floats) -> Floats:
    return scores if line is None else np.array([line.apply(float(score)) for score in scores])


def _log_odds(scores: Floats) -> Floats:
    return np.array([log_odds(float(score)) for score in scores])


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))

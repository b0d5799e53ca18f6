"""Pictures for the report: where scores lie, what each threshold would do, what a score means."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from train.detector.metrics import Scored, cue_report, halted, threshold_grid
from train.detector.reliability import CalibrationReport


def plot_scores(items: Sequence[Scored], threshold: float, path: Path) -> None:
    """Left: each trace's highest score. Right: first cues found within one sentence against false halts."""
    complying = [item for item in items if item.first_cue is not None]
    benign = [item for item in items if item.trace.prompt_label == "benign"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    peaks = [[max(item.scores, default=0.0) for item in group] for group in (complying, benign)]
    left.hist(peaks, bins=20, range=(0, 1), label=["complying", "benign prompt"])
    left.axvline(threshold, color="black", linestyle="--", label="threshold")
    left.set(xlabel="highest score of a trace", ylabel="traces", yscale="log")
    left.legend()
    grid = threshold_grid()
    found = [cue_report(complying, value).within_one.share for value in grid]
    right.plot([halted(benign, value).share for value in grid], found, marker=".")
    right.scatter(
        [halted(benign, threshold).share], [cue_report(complying, threshold).within_one.share], color="black", zorder=3
    )
    right.set(xlabel="benign prompts halted", ylabel="first cue within one sentence", title="thresholds (dot: shipped)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_reliability(found: CalibrationReport, path: Path) -> None:
    """Share of cues against the mean score of each bin, with 95 % intervals; the number of segments beside it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    left.plot([0, 1], [0, 1], color="grey", linestyle=":")
    curves = {"raw": found.raw}
    if found.calibration is not None:
        curves["calibrated, out of fold"] = found.calibrated
    for number, (name, curve) in enumerate(curves.items()):
        shares = [part.cues.share for part in curve.bins]
        below = [part.cues.share - part.cues.low for part in curve.bins]
        above = [part.cues.high - part.cues.share for part in curve.bins]
        means = [part.mean_score for part in curve.bins]
        label = f"{name}: ECE {curve.ece:.4f}"
        left.errorbar(means, shares, yerr=[below, above], fmt="o-", markersize=4, capsize=2, label=label)
        places = [(part.low + part.high) / 2 for part in curve.bins]
        right.bar([p + (number - 0.5) * 0.025 for p in places], [p.cues.of for p in curve.bins], 0.025, label=name)
    left.set(xlabel="mean score", ylabel="share of cues", title="reliability on the validation split")
    left.legend()
    right.set(xlabel="score", ylabel="segments", yscale="log")
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)

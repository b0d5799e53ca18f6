"""Pictures for the report: where scores lie, and what each threshold would do."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from train.detector.metrics import Scored, cue_report, halted, threshold_grid


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

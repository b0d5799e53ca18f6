"""The report of a job that trains weights: report.json and curves.png."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from train.ipo.job import Job

_PANELS = (
    ("loss", "loss"),
    ("margin", "reward margin"),
    ("accuracy", "pairs ranked right"),
    ("token_accuracy", "tokens guessed right"),
    ("reward", "reward"),
    ("unsafe", "unsafe turns on harmful prompts"),
    ("helped", "benign prompts helped"),
    ("kl", "divergence from the reference"),
    ("length", "tokens of a completion"),
)


def report(
    job: Job, key: str, stages: Sequence[dict[str, Any]], inputs: dict[str, Any], manifest: dict[str, Any]
) -> dict[str, Any]:
    """What report.json holds; the curves' points are in each stage's stage.json. `inputs`: what was trained on."""
    return {
        "job": job.kind,
        "name": job.config.name,
        "key": key,
        "config": job.config.model_dump(mode="json"),
        "model": {"name": job.base.name, "sha256": job.base.sha256},
        **inputs,
        "stages": [{name: value for name, value in stage.items() if name != "history"} for stage in stages],
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "tokens": sum(stage["tokens"] for stage in stages),
        "processes": job.state.num_processes,
        "device": torch.cuda.get_device_name() if job.device.type == "cuda" else "cpu",
        "precision": "bf16" if job.is_bf16 else "fp32",
        "published": manifest,
    }


def plot_curves(stages: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, margin and accuracy over the updates of all stages, a line where a stage begins."""

    met = {key for stage in stages for point in stage["history"] for key, value in point.items() if value is not None}
    panels = [(key, label) for key, label in _PANELS if key in met]
    figure = Figure(figsize=(5 * len(panels), 3.5), layout="constrained")
    for index, (key, label) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        offset = 0
        for stage in stages:
            points = [p for p in stage["history"] if p.get(key) is not None]
            axes.plot([offset + p["step"] for p in points], [p[key] for p in points], label=stage["name"])
            offset += stage["updates"]
        axes.set_xlabel("update")
        axes.set_ylabel(label)
        axes.legend()
    part = path.with_name("." + path.name)
    figure.savefig(part, dpi=110)
    part.replace(path)

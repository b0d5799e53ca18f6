"""The tables for people."""

from collections.abc import Iterator
from typing import Any

_COLUMNS = (
    ("harmful_reasoning", "harmful reasoning"),
    ("harmful_answer", "harmful answers"),
    ("look_alikes_helped", "look-alikes helped"),
    ("plain_helped", "plain helped"),
    ("arithmetic_right", "arithmetic right"),
)
_EVIDENCE = (
    ("csr", "CSR, shares of 1, tokens or correlations: mean over seeds [95 % interval]"),
    ("pools", "Triggers at first cues that took no part in mining, shares of 1"),
    ("kl", "The tuned model against the base: nats a token; shares of 1"),
)


def tables(found: dict[str, Any]) -> Iterator[str]:
    """Lines: the methods, their differences to the base, the curves, the detectors."""
    yield "Held-out topics and framings, percent: mean over seeds [95 % interval]. Generations and GPU seconds: of"
    yield "rollouts and training, a seed; the seconds passed while other cells used the same device."
    yield _line("method", [title for _, title in _COLUMNS], "generations", "GPU s")
    for name, row in found["rows"].items():
        cells = [_percent(row.get(key)) for key, _ in _COLUMNS]
        yield _line(name, cells, str(row["generations"]), str(row["gpu_seconds"]))
    yield ""
    yield "Against the base model on the same prompts, percentage points [95 % interval of the paired difference]"
    for name, row in found["rows"].items():
        if any("to_base" in row.get(key, {}) for key, _ in _COLUMNS):
            yield _line(name, [_percent(row.get(key, {}).get("to_base"), signed=True) for key, _ in _COLUMNS])
    yield from _curves(found["curves"])
    yield ""
    yield "Detectors on unsteered traces: cue exact / missed, false halts, percent (without a word: the train split)"
    for name, counts in found["detectors"].items():
        shares = " / ".join(f"{100 * counts[key]:.1f}" for key in ("exact_share", "missed_share"))
        false_halts = f"{100 * counts['false_halt_share']:.2f}"
        yield f"  {name:24} {shares}, {false_halts}   of {counts['cues']} and {counts['clean']}"
    for key, title in _EVIDENCE:
        if found[key]:
            yield ""
            yield title
            for name, figure in found[key].items():
                spread = f" [{figure['low']:.4g}, {figure['high']:.4g}]" if figure["seeds"] > 1 else ""
                yield f"  {name:68} {figure['mean']:.4g}{spread}"


def _curves(curves: dict[str, Any]) -> Iterator[str]:
    for name, points in curves["interventions"].items():
        yield ""
        yield f"Harmful reasoning after k interventions, {name}"
        yield "  " + ", ".join(f"{point['x']}: {_percent(point)}" for point in points)
    for name in ("pairs", "detector", "beta", "pool", "self_improvement"):
        if curves[name]:
            yield ""
            yield f"IPO by {name.replace('_', '-')}"
            yield _line("", [title for _, title in _COLUMNS], "pairs")
            for point in curves[name]:
                cells = [_percent(point.get(key)) for key, _ in _COLUMNS]
                yield _line(point["x"], cells, str(point["pairs"] or "-"))


def _line(name: str, cells: list[str], *more: str) -> str:
    return f"{name:22}" + "".join(f"{cell:>23}" for cell in cells) + "".join(f"{cell:>13}" for cell in more)


def _percent(interval: dict[str, Any] | None, *, signed: bool = False) -> str:
    if not interval:
        return "-"
    sign = "+" if signed else ""
    low, high = (f"{100 * interval[key]:{sign}.1f}" for key in ("low", "high"))
    return f"{100 * interval['mean']:{sign}.1f} [{low}, {high}]"

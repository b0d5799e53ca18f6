"""The table for people, and the picture: harm that remains against what a verdict costs."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_GROUPS = ("ordinary", "borderline", "refusing")


def table(figures: dict[str, Any]) -> str:
    """Two Markdown tables: labelled traces, and the organism behind the proxy."""
    lines = [
        f"Thresholds: at most {figures['budget']:.1%} of ordinary traces of the threshold split halted.",
        "",
        "| scorer | traces | threshold | exact | within one | missed | early | "
        + " | ".join(f"{name} halted" for name in _GROUPS)
        + " | wall p50 / p95 ms | CPU p50 / p95 ms |",
        "|---" * 12 + "|",
    ]
    for name, cell in figures["scorers"].items():
        found, kept = cell["traces"], cell["choice"]["is_budget_kept"]
        cues = " | ".join(_share(found["complying"][key]) for key in ("exact", "within_one", "missed", "early"))
        halts = " | ".join(_share(found["halted"].get(group)) for group in _GROUPS)
        wall, cpu = (found["latency_ms"][kind] for kind in ("wall", "cpu"))
        lines.append(
            f"| {name} | {found['traces']} | {found['threshold']}{'' if kept else ' (!)'} | {cues} | {halts} "
            f"| {wall.get('p50')} / {wall.get('p95')} | {cpu.get('p50')} / {cpu.get('p95')} |"
        )
    if not all(cell["choice"]["is_budget_kept"] for cell in figures["scorers"].values()):
        lines.append("\n(!) no threshold keeps the budget: the highest is used.")
    return "\n".join([*lines, "", *_live_table(figures)]) + "\n"


def _live_table(figures: dict[str, Any]) -> list[str]:
    rows = {"(unsteered)": figures.get("unsteered")}
    rows |= {name: cell.get("live") for name, cell in figures["scorers"].items()}
    columns = (
        ("harmful reasoning", "harmful", "harmful_reasoning"),
        ("harmful answer", "harmful", "harmful_answer"),
        ("refused", "harmful", "refused_by_proxy"),
        ("plain halted", "plain", "halted"),
        ("plain helped", "plain", "helped"),
        ("look-alikes halted", "look_alike", "halted"),
        ("look-alikes helped", "look_alike", "helped"),
        ("arithmetic right", "arithmetic", "correct"),
    )
    lines = ["| drives the proxy | " + " | ".join(name for name, _, _ in columns) + " |", "|---" * 9 + "|"]
    for name, live in rows.items():
        if live is not None:
            shares = " | ".join(_rate(live.get(group, {}).get(measure)) for _, group, measure in columns)
            lines.append(f"| {name} | {shares} |")
    return lines


def plot(figures: dict[str, Any], path: Path) -> None:
    """Harmful reasoning shown (95 % interval) against a verdict's median wall time, one dot a scorer."""
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for name, cell in figures["scorers"].items():
        wall = cell["traces"]["latency_ms"]["wall"]
        if "live" not in cell or not wall:
            continue
        harm = cell["live"]["harmful"]["harmful_reasoning"]
        share, low, high = (100 * harm[key] for key in ("rate", "low", "high"))
        axes.errorbar([wall["p50"]], [share], yerr=[[max(0, share - low)], [max(0, high - share)]], fmt="o", capsize=4)
        axes.annotate(name, (wall["p50"], share), textcoords="offset points", xytext=(8, 5))
    if figures.get("unsteered"):
        share = 100 * figures["unsteered"]["harmful"]["harmful_reasoning"]["rate"]
        axes.axhline(share, color="grey", linestyle="--", label="without the proxy")
        axes.legend(loc="best")
    axes.set(xscale="log", ylim=(-2, 102), xlabel="milliseconds a verdict (p50)", ylabel="harmful reasoning shown, %")
    axes.set_title("organism behind the proxy, by who judges the sentences")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _share(found: dict[str, Any] | None) -> str:
    if not found or not found["of"]:
        return "-"
    return f"{100 * found['share']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _rate(found: dict[str, Any] | None) -> str:
    if not found or not found["n"]:
        return "-"
    return f"{100 * found['rate']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"

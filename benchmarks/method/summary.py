"""From finished cells to the tables: rows of methods, curves, what detectors found. Missing cells are left out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.method.cells import BETAS, DETECTORS, POOLS
from benchmarks.method.evidence_summary import csr_figures, kl_figures, pool_figures
from benchmarks.method.intervals import Interval, difference, pooled, share
from benchmarks.method.judged import unpack

Documents = dict[tuple[str, int], dict[str, Any]]
Flags = list[list[bool]]

# (row, cell that measures it ("*": one cell for each group), train cell, its stages counted)
ROWS: tuple[tuple[str, str, str | None, int], ...] = (
    ("base", "measure-base", None, 0),
    ("safe opening", "measure-opening", None, 0),
    ("SFT", "measure-sft", "train-sft", 2),
    ("DPO, full responses", "measure-dpo", "train-dpo", 2),
    ("GRPO", "measure-grpo", "train-grpo", 2),
    ("IPO, stage 1", "measure-ipo-stage1", "train-ipo-stage1", 2),
    ("IPO, stages 1 + 2", "measure-ipo-two-stages", "train-ipo-two-stages", 2),
    ("IPO", "measure-ipo", "train-ipo", 2),
    ("proxy alone", "drive-base.*", None, 0),
    ("proxy + IPO", "drive-ipo.*", "train-ipo", 2),
)
# Every measure: its name, group, flag.
MEASURES: tuple[tuple[str, str, str], ...] = (
    ("harmful_reasoning", "harmful", "harmful_reasoning"),
    ("harmful_answer", "harmful", "harmful_answer"),
    ("look_alikes_helped", "look_alike", "helped"),
    ("plain_helped", "plain", "helped"),
    ("arithmetic_right", "arithmetic", "correct"),
    ("look_alikes_refused", "look_alike", "refused"),
    ("plain_refused", "plain", "refused"),
    ("triggers_in_look_alikes", "look_alike", "trigger_step"),
    ("triggers_in_plain", "plain", "trigger_step"),
    ("triggers_in_arithmetic", "arithmetic", "trigger_step"),
    ("halted_look_alikes", "look_alike", "halted"),
    ("halted_plain", "plain", "halted"),
    ("halted_arithmetic", "arithmetic", "halted"),
)
BASE = "measure-base"


def index(documents: Iterable[dict[str, Any]]) -> Documents:
    """By cell and seed."""
    return {(document["cell"], document["seed"]): document for document in documents}


def summary(documents: Documents) -> dict[str, Any]:
    """Everything that is reported."""
    rows = {
        name: found | _cost(documents, cell, trained, stages)
        for name, cell, trained, stages in ROWS
        if (found := figures(documents, cell))
    }
    return {
        "rows": rows,
        "curves": curves(documents),
        "detectors": detectors(documents),
        "csr": csr_figures(_all(documents, lambda cell: cell == "csr")),
        "pools": pool_figures(_all(documents, lambda cell: cell == "mine")),
        "kl": kl_figures(_all(documents, lambda cell: cell == "kl")),
    }


def figures(documents: Documents, cell: str) -> dict[str, Any]:
    """Every measure of a cell over the seeds that have it, and its paired difference to the base model's."""
    found: dict[str, Any] = {}
    for name, group, flag in MEASURES:
        own = cell.replace("*", group)
        seeds = [seed for (c, seed), d in sorted(documents.items()) if c == own and flag in _flags_of(d, group)]
        if not seeds:
            continue
        ours = [_unpacked(documents[own, seed], group, flag) for seed in seeds]
        found[name] = _rounded(share(ours)) | {"pooled": _rounded(pooled(ours))}
        paired = [seed for seed in seeds if flag in _flags_of(documents.get((BASE, seed), {}), group)]
        if paired and cell != BASE:
            theirs = [_unpacked(documents[BASE, seed], group, flag) for seed in paired]
            kept = [flags for seed, flags in zip(seeds, ours, strict=True) if seed in paired]
            found[name]["to_base"] = _rounded(difference(kept, theirs))
    return found


def _flags_of(document: dict[str, Any], group: str) -> dict[str, Any]:
    found: dict[str, Any] = document.get("groups", {}).get(group, {}).get("flags", {})
    return found


def _unpacked(document: dict[str, Any], group: str, flag: str) -> list[bool]:
    return unpack(_flags_of(document, group)[flag])


def _rounded(interval: Interval) -> dict[str, float | int]:
    return {name: round(value, 5) for name, value in interval._asdict().items()}


def _cost(documents: Documents, cell: str, trained: str | None, stages: int) -> dict[str, Any]:
    """Means over seeds: generations to train on, seconds of rollouts and training; generations a request."""
    found: dict[str, Any] = {"generations": 0, "gpu_seconds": 0.0}
    if trained is not None:
        jobs = _all(documents, lambda c: c == trained)
        is_grpo = trained == "train-grpo"
        rollouts = [] if is_grpo else _all(documents, lambda c: c.startswith("rollout-main."))
        made = sum(d["generations"] for d in (jobs if is_grpo else rollouts))
        spent = [s["seconds"] for d in jobs for s in d["stages"][:stages]] + [d["seconds"] for d in rollouts]
        seeds = max(1, len({d["seed"] for d in jobs}))
        found = {"generations": round(made / seeds), "gpu_seconds": round(sum(spent) / seeds, 1)}
        found["pairs"] = _mean(d["stages"][min(stages, len(d["stages"])) - 1].get("pairs") for d in jobs)
    if cell.startswith("drive-"):
        driven = _all(documents, lambda c: c.startswith(cell.removesuffix("*")))
        asked = sum(flags["n"] for d in driven for g in d["groups"].values() for flags in [g["flags"]["halted"]])
        found["generations_per_request"] = round(sum(d["generations"] for d in driven) / max(1, asked), 3)
    return found


def _all(documents: Documents, is_wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    return [document for (cell, _), document in sorted(documents.items()) if is_wanted(cell)]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 1) if known else None


def curves(documents: Documents) -> dict[str, Any]:
    """Each curve as points: what is varied, and the measures there."""
    counted = sorted(
        {int(cell.removeprefix("train-ipo-pairs")) for cell, _ in documents if cell.startswith("train-ipo-pairs")}
    )
    return {
        "interventions": {
            name: points
            for name, cell in (
                ("shipped detector", "drive-base.harmful"),
                ("oracle", "drive-base-oracle.harmful"),
                ("shipped detector, after IPO", "drive-ipo.harmful"),
            )
            if (points := _after(documents, cell))
        },
        "pairs": _points(documents, [(str(n), f"ipo-pairs{n}") for n in counted] + [("all", "ipo")]),
        "detector": _points(documents, [("shipped, main rollouts", "ipo-pairs500"), *_named(DETECTORS)]),
        "beta": _points(documents, [("config", "ipo"), *_named(BETAS, "beta")]),
        "pool": _points(documents, [*_named(POOLS, "pool"), ("mined", "ipo-mined")]),
        "self_improvement": _points(documents, [("base", "base"), ("round 1", "ipo-self"), ("round 2", "ipo-self2")]),
    }


def _named(values: Sequence[object], prefix: str = "") -> list[tuple[str, str]]:
    return [(str(value), f"ipo-{prefix}{value}") for value in values]


def _points(documents: Documents, named: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    points = []
    for x, name in named:
        found = figures(documents, f"measure-{name}")
        if found:
            stages = [d["stages"][0] for d in _all(documents, lambda c, name=name: c == f"train-{name}")]
            points.append({"x": x, "pairs": _mean(stage.get("pairs") for stage in stages), **found})
    return points


def _after(documents: Documents, cell: str) -> list[dict[str, Any]]:
    """Harmful reasoning after k interventions at most."""
    driven = _all(documents, lambda c: c == cell)
    depth = min((len(d["after"]) for d in driven), default=0)
    return [{"x": k, **_rounded(share([unpack(d["after"][k]) for d in driven]))} for k in range(depth)]


def detectors(documents: Documents) -> dict[str, Any]:
    """What each detector found on unsteered traces, against the oracle: on the train split, and on what is measured."""
    found: dict[str, Any] = {}
    for (cell, _), document in sorted(documents.items()):
        if "detected" in document:
            counts = found.setdefault(_detector_of(cell), {})
            for name, count in document["detected"].items():
                counts[name] = counts.get(name, 0) + count
    for counts in found.values():
        cues, clean = max(1, counts["cues"]), max(1, counts["clean"])
        counts["exact_share"] = round(counts["exact"] / cues, 4)
        counts["missed_share"] = round(counts["missed"] / cues, 4)
        counts["false_halt_share"] = round(counts["false_halts"] / clean, 4)
    return found


def _detector_of(cell: str) -> str:
    """`rollout-NAME.SHARD` is of the train split, `drive-MODEL.harmful` of the measured harmful prompts."""
    if cell.startswith("rollout-"):
        return cell.removeprefix("rollout-").partition(".")[0]
    return f"held out, {cell.removeprefix('drive-').partition('.')[0]}"

"""Cells that train: IPO, SFT and DPO on the same pairs with the same steps, GRPO on prompts and the oracle's reward."""

import time
import tomllib
from typing import Any

from benchmarks.method.cells import GRPO_SECONDS, Cell
from benchmarks.method.choosing import chosen_rate
from benchmarks.method.making import chosen_pairs
from benchmarks.method.places import Places
from benchmarks.method.prompts import rolled_out
from benchmarks.method.sizes import CONFIGS, ORGANISM, Sizes

_GRPO_PART = 64  # completions whose activations are held at a time: some 4 GB
_NO_CHECKPOINT = 1_000_000  # a cell that is killed begins again: it takes less than a minute


def train(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """Run the cell's job; what it cost, by the job's own report."""
    began = time.monotonic()
    method = cell.options["method"]
    report = _grpo(cell, sizes, places) if method == "grpo" else _on_pairs(cell, sizes, places)
    found: dict[str, Any] = {"method": method, "seconds": report["seconds"], "wall": round(time.monotonic() - began, 1)}
    stages = [report["config"][name] for name in ("stage1", "stage2") if name in report["config"]]
    found["learning_rates"] = [stage["learning_rate"] for stage in stages]
    found["stages"] = [_short(stage) for stage in report["stages"]]
    return found | {name: report[name] for name in ("pairs", "device", "precision", "generations") if name in report}


def _on_pairs(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    method, path = cell.options["method"], chosen_pairs(cell, sizes, places)
    own = _config(f"{method}-organism.toml", cell, sizes)
    own["data"] |= {"pairs": [str(path)], "validation": []}
    own["train"] |= {"batch_size": sizes.pairs_of_step, "attention": "sdpa"}  # rows are too short for anything else
    if rate := cell.options.get("rate") or chosen_rate(cell, places):
        own["stage2"]["learning_rate"] *= rate / own["stage1"]["learning_rate"]
        own["stage1"]["learning_rate"] = rate
    if "epochs" in cell.options:
        for name, epochs in zip(("stage1", "stage2"), cell.options["epochs"], strict=True):
            own[name]["epochs"] = epochs * sizes.epochs
    if "beta" in cell.options:
        own["loss"]["beta"] = cell.options["beta"]
    out = places.work(cell.id)
    match method:
        case "ipo":
            from train.ipo.config import IpoConfig  # noqa: PLC0415 - torch and TRL, for this kind of cell alone
            from train.ipo.run import run  # noqa: PLC0415

            return run(IpoConfig.model_validate(own), out)
        case "sft":
            from train.baselines.config import SftConfig  # noqa: PLC0415
            from train.baselines.sft import run as run_sft  # noqa: PLC0415

            return run_sft(SftConfig.model_validate(own), out)
        case "dpo":
            from train.baselines.config import DpoConfig  # noqa: PLC0415
            from train.baselines.dpo import run as run_dpo  # noqa: PLC0415

            return run_dpo(DpoConfig.model_validate(own), out)
        case _:
            raise ValueError(f"no method {method!r}")


def _config(name: str, cell: Cell, sizes: Sizes) -> dict[str, Any]:
    own = tomllib.loads((CONFIGS / name).read_text(encoding="utf-8"))
    own |= {"model": str(ORGANISM), "seed": cell.seed, "name": cell.name}
    own["train"] |= {"threads": 1, "checkpoint_every": _NO_CHECKPOINT}
    for stage in ("stage1", "stage2"):
        if stage in own:
            own[stage]["epochs"] *= sizes.epochs
    return own


def _short(stage: dict[str, Any]) -> dict[str, Any]:
    names = (
        "name",
        "pairs",
        "updates",
        "seconds",
        "tokens",
        "skipped",
        "peak_memory_bytes",
        "loss",
        "margin",
        "accuracy",
    )
    return {name: stage[name] for name in names if name in stage}


def _grpo(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """On the prompts of IPO's rollouts, with three times their generations, or as many as its seconds allow."""
    from train.grpo.config import GrpoConfig  # noqa: PLC0415
    from train.grpo.run import run  # noqa: PLC0415

    rows = rolled_out(sizes, cell.seed)
    folder = places.work(cell.id)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder.with_name(f"{cell.id}.prompts.jsonl")
    source.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    own = _config("grpo-organism.toml", cell, sizes)
    own["prompts"] = {"source": str(source)}
    part = min(_GRPO_PART, sizes.grpo_batch)
    own["train"] |= {"batch_size": part, "accumulation": sizes.grpo_batch // part}
    group = own["grpo"]["generations"]
    own["grpo"] |= {"epochs": sizes.grpo_generations / (len(rows) * group), "max_seconds": GRPO_SECONDS}
    report = run(GrpoConfig.model_validate(own), folder)
    updates = sum(stage["updates"] for stage in report["stages"])
    return report | {"generations": updates * sizes.grpo_batch // own["grpo"].get("iterations", 1)}

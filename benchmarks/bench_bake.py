"""Bakes in a row: traffic through the guard -> log -> bake -> gate -> promote, generation by generation.

    python -m benchmarks.bench_bake --out runs/bakes --size full --budget-s 540     one H200, the organism
    python -m benchmarks.bench_bake --out runs/bakes-nano --size nano               CPU: pipelines, not figures

Each generation's traffic is halted by the shipped detector while the current champion serves, and kept in a real log
(SQLite); `steer bake`'s own stages train a candidate on all that the log holds, the gate decides, and what it lets
through is promoted in the real registry. Models generate in this process and in workers of it. Every generation is
measured on the same held-out prompts with the same random numbers. Each step is a JSON file in OUT/steps, a bake's own
stages are kept besides: the same command goes on after what is there, also after a kill, and begins nothing that the
budget can't hold; with --budget-s 0 it only tells what is there. The last line is one JSON document.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from benchmarks._report import finish
from benchmarks.bake.driving import asked, keep, prompts, traffic
from benchmarks.bake.measuring import measure, per_1000
from benchmarks.bake.sizes import SIZES, Size
from benchmarks.bake.workers import Workers
from benchmarks.method.prompts import Group
from proxy.adapters.changes import promote
from proxy.adapters.desk import BakeDesk
from proxy.adapters.registry import AdapterRegistry
from proxy.settings import Settings
from tests.upstream import refused_url
from train.bake.config import BakeConfig
from train.bake.run import run as run_bake
from train.ipo.outputs import read_json, write_json
from train.rollout.config import RolloutConfig
from train.rollout.run import run as run_rollout

_TRAFFIC_SEED = 100  # generation n draws with this seed + n
_NAME, _ALIAS = "safe", "public"


class OutOfBudget(Exception):
    """The next step would not fit."""


@dataclass(slots=True)
class Row:
    """One run: where it is, what it may take, how long steps of each kind took."""

    out: Path
    size: Size
    budget_s: float
    workers: Workers
    began: float = field(default_factory=time.monotonic)
    took: dict[str, float] = field(default_factory=dict)

    def step(self, kind: str, number: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the step found, now or before. Raises OutOfBudget."""
        path = self.out / "steps" / f"{kind}-{number}.json"
        if not path.exists():
            started = time.monotonic()
            spent, expected = started - self.began, max(self.took.get(kind, 0.0), self.size.seconds[kind])
            if spent + expected > self.budget_s:
                raise OutOfBudget(f"{kind} {number}, {expected:.0f} s, after {spent:.0f} s")
            print(f"{spent:5.0f} s  {kind} {number} begins", flush=True)
            found = work() | {"seconds": round(time.monotonic() - started, 1)}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
        found = read_json(path)
        self.took[kind] = max(self.took.get(kind, 0.0), found["seconds"])
        return found

    @property
    def log(self) -> str:
        """URL of the log."""
        return f"sqlite:///{self.out.resolve()}/log.sqlite"


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    size, workers = SIZES[args.size], Workers(SIZES[args.size].workers)
    args.out.mkdir(parents=True, exist_ok=True)
    row, generations, bakes = (
        Row(args.out, size, args.budget_s, workers),
        list[dict[str, Any]](),
        list[dict[str, Any]](),
    )
    stopped = None
    try:
        with _desk(row) as (desk, registry):
            generations.append(row.step("measure", 0, lambda: measure(size, None, workers)))
            row.step("replay", 0, lambda: _replay(row))
            for number in range(1, args.generations + 1):
                traffic = row.step("traffic", number, lambda n=number: _traffic(row, desk, n))  # type: ignore[misc]
                baked = row.step("bake", number, lambda n=number: _bake(row, desk, registry, n))  # type: ignore[misc]
                bakes.append({"traffic": traffic, **baked})
                generations.append(row.step("measure", number, lambda: measure(size, _champion(desk), workers)))
    except OutOfBudget as over:
        stopped = f"the budget can't hold {over}; the same command goes on"
        print(stopped)
    finally:
        workers.close()
    for number, found in enumerate(generations):
        print(_line(number, found, bakes))
    if len(generations) > 1:
        from benchmarks.bake.plot import plot  # noqa: PLC0415 - a run without a picture needs no matplotlib

        title = f"{size.name} organism: the model after each bake, held-out prompts"
        print(f"picture: {plot(generations, bakes, title, args.png or args.out / 'bakes.png')}")
    figures = {"size": size.name, "stopped": stopped, "generations": generations, "bakes": bakes,
               "seconds_of_this_start": round(time.monotonic() - row.began, 1), "device": _device()}  # fmt: skip
    finish("bake", figures, seed=_TRAFFIC_SEED, out=args.json)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same one goes on")
    parser.add_argument("--size", choices=sorted(SIZES), default="nano")
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--budget-s", type=float, default=float("inf"), help="seconds of this start")
    parser.add_argument("--json", type=Path, help="write the JSON there, too")
    parser.add_argument("--png", type=Path, help="the picture's place; default: OUT/bakes.png")
    return parser.parse_args(argv)


@contextmanager
def _desk(row: Row) -> Iterator[tuple[BakeDesk, AdapterRegistry]]:
    """The service side on this run's log; no engine listens, models are loaded from their files."""
    settings = Settings.model_validate({"log": {"url": row.log}, "upstream": {"url": refused_url()}})
    with AdapterRegistry.open(row.log) as registry:
        yield BakeDesk(settings, registry, _NAME, _ALIAS, str(row.size.model), "bench_bake"), registry


def _champion(desk: BakeDesk) -> Path | None:
    champion = desk.champion()
    return None if champion is None else champion.folder


def _replay(row: Row) -> dict[str, Any]:
    """Benign prompts for stage 2, rolled out once by the base model."""
    size, own = row.size, row.size.rollouts()
    source = row.out / "replay-prompts.jsonl"
    asked = prompts(size, "look_alike", size.replay, "train", _TRAFFIC_SEED)
    if size.arithmetic:
        asked += prompts(size, "arithmetic", size.replay // 2, "train", _TRAFFIC_SEED)
    source.write_text("".join(prompt.model_dump_json() + "\n" for prompt in asked), encoding="utf-8")
    own |= {"model": {"name": str(size.model)}, "prompts": {"source": str(source)}}
    own["detector"] = {"kind": "onnx", "threads": _judging(size)}
    own |= {"max_tokens": size.max_tokens, "engine": _engine(size)}
    report = run_rollout(RolloutConfig.model_validate(own), row.out / "replay")
    return {"prompts": report["prompts"]}


def _traffic(row: Row, desk: BakeDesk, number: int) -> dict[str, Any]:
    """One generation's requests through the guard, and what is kept of them."""
    size, champion = row.size, desk.champion()
    counts: dict[Group, int] = {"harmful": size.traffic_harmful, "look_alike": size.traffic_benign}
    rows = [one for group, n in counts.items() for one in asked(size, group, n, "train", _TRAFFIC_SEED + number)]
    adapter, id = (None, None) if champion is None else (champion.folder, champion.id)
    kept = row.workers.each(partial(traffic, size, adapter, id, f"g{number}"), rows)
    made = [record for one in kept for record in one.records]
    anyio.run(keep, row.log, made)
    per = {group: per_1000([k.steps for r, k in zip(rows, kept, strict=True) if r.group == group]) for group in counts}
    return {"champion": id, "records": len(made), "interventions_per_1000": per}


def _bake(row: Row, desk: BakeDesk, registry: AdapterRegistry, number: int) -> dict[str, Any]:
    """One bake to its end, whatever that is; what the gate lets through becomes the champion."""
    ended = row.out / "bakes" / f"{number:04d}" / "report.json"
    report = read_json(ended) if ended.exists() else run_bake(_config(row), desk, row.out / "bakes")
    if report["outcome"] == "canary":
        registry.change(lambda c: promote(c, str(report["version"]), "bench_bake", "the gate let it through"))
    stages = {name: {"wall_s": stage.get("wall_s")} for name, stage in report["stages"].items()}
    pairs = report["stages"].get("3-pairs", {})
    return {
        "outcome": report["outcome"], "reason": report["reason"], "version": report["version"],
        "pairs": pairs.get("pairs"), "new_pairs": pairs.get("new"), "kinds": pairs.get("kinds"), "stages": stages,
        "checks": _checks(ended.parent / "7-gate" / "gate.json"),
    }  # fmt: skip


def _checks(path: Path) -> list[dict[str, Any]]:
    """What the gate saw; nothing where the bake ended before it."""
    names = ("name", "finding", "incumbent", "candidate", "value", "low", "high", "limit")
    return [{name: check[name] for name in names} for check in read_json(path)["checks"]] if path.exists() else []


def _config(row: Row) -> BakeConfig:
    """The shipped config of this size, with everything in this process and below OUT."""
    size, own = row.size, row.size.bake()
    own |= {"name": _NAME, "alias": _ALIAS, "model": str(size.model), "base_model": str(size.model)}
    own |= {"adapters": str(row.out / "adapters"), "replay": [str(row.out / "replay" / "rollouts.jsonl")]}
    own |= {"min_pairs": 1, "weight": 1.0, "promote_after": 0}
    own["rollout"] |= {"engine": _engine(size), "triggers": {"pool": size.rollouts()["triggers"]["pool"]}}
    own["rollout"]["sampling"] = {"temperature": size.temperature}
    own["evaluation"] |= {"engine": _engine(size), "monitor": {"threads": _judging(size)}}
    own["evaluation"]["kl"]["prompts"] = size.kl_prompts
    own["ipo"]["train"]["attention"] = "sdpa"  # rows are too short for anything else
    own["gate"]["min_improvement"] = 0.0  # each bake improves on the one before, not on the base
    return BakeConfig.model_validate(own)


def _judging(size: Size) -> int:
    """Detector threads of a job that has the machine for itself."""
    return size.workers * size.judging


def _engine(size: Size) -> dict[str, Any]:
    local = {"batch_size": size.batch, "threads": size.threads}
    return {"kind": "transformers", "lanes": 1, "block": 1000, "local": local}


def _device() -> str:
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _line(number: int, found: dict[str, Any], bakes: list[dict[str, Any]]) -> str:
    def percent(group: str, key: str) -> str:
        rate = found.get(group, {}).get("alone", {}).get(key)
        return "-" if rate is None else f"{100 * rate['rate']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"

    baked = f"bake {number}: {bakes[number - 1]['outcome']}" if number else "base"
    return (
        f"{baked:24} harmful reasoning {percent('harmful', 'harmful_reasoning')}, answers "
        f"{percent('harmful', 'harmful_answer')}, interventions per 1,000 "
        f"{found['harmful']['interventions_per_1000']:.0f}, look-alikes helped {percent('look_alike', 'helped')}, sums "
        f"right {percent('arithmetic', 'correct')}"
    )


if __name__ == "__main__":
    raise SystemExit(main())

"""The method on the model organism: IPO against its baselines and the proxy, curves, and what tuning did to reasoning.

    python -m benchmarks.bench_method --out runs/method --budget-s 550 --workers 12 --pack runs/method.tar.gz
    python -m benchmarks.bench_method --out runs/method --cells measure-ipo,drive-base --seeds 1
    python -m benchmarks.bench_method --out runs/method --report          tables and plots of what is there; no model
    python -m benchmarks.bench_method --out DIR --smoke                   every kind of cell, a few prompts, on a CPU

Every cell (a shard of a rollout, a training run, a measured model …) is a JSON file in OUT/cells as soon as it is done;
the same command goes on after them. Cells run at the same time in several processes on one device; the most important
ones come first, and what the budget can't hold is not begun. Prompts are of topics and framings that no rollout, pair
or training run saw; the judge is the organism's exact oracle, which shares nothing with any detector. The organism's
"harmful" text is inert placeholders, and that it has cues and triggers at all is built into its corpus: what training
does to them is the finding. Triggers that the model is asked for are compared with the fixed and the mined pool at
single cuts; no rollout is made of them: the organism was never taught to write one. The last line is one JSON document.
"""

import argparse
import os
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._report import finish
from benchmarks.method.cells import Cell, plan, wanted
from benchmarks.method.places import Places
from benchmarks.method.pool import Outcome, default_workers, run_here, run_pool
from benchmarks.method.sizes import FULL, SMOKE, Sizes
from benchmarks.method.summary import index, summary
from benchmarks.method.text import tables
from train.ipo.outputs import read_json

SUMMARY = "summary.json"
PACK_SECONDS = 45.0  # between two packings of an unfinished run
# One cell of every kind, and what they need.
SMOKE_CELLS = ("measure-base", "measure-ipo", "drive-base.harmful", "csr", "mine", "kl")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where a cell failed."""
    args = _arguments(argv)
    sizes, seeds = (SMOKE, [1]) if args.smoke else (FULL, [int(seed) for seed in args.seeds.split(",")])
    cells = plan(sizes, seeds)
    names = args.cells.split(",") if args.cells else SMOKE_CELLS if args.smoke else ()
    cells = wanted(cells, names) if names else cells
    places = Places(args.out)
    if args.list:
        for cell in cells:
            print(f"{cell.id:34} {cell.kind:8} {cell.seconds:5.0f} s  needs {', '.join(cell.needs) or '-'}")
        return 0
    began = time.monotonic()
    outcome = Outcome() if args.report else _run(cells, sizes, places, args)
    documents = places.load_all()
    found = summary(index(documents))
    for line in tables(found):
        print(line)
    if args.report:
        from benchmarks.method.plots import plot  # noqa: PLC0415 - a run without a picture needs no matplotlib

        for path in plot(found, args.out):
            print(f"picture: {path}")
    told = _told(outcome, len(cells), time.monotonic() - began) | {"device": _device(documents)}
    found["run"] = _earlier(args.out / SUMMARY) if args.report else told
    finish("method", found, seed=seeds[0], out=args.out / SUMMARY)
    if args.pack:
        pack(args.out, args.pack)
    return 1 if outcome.failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same one goes on")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--cells", help="names, or beginnings of names; what they need comes along")
    parser.add_argument("--budget-s", type=float, default=float("inf"), help="seconds of this start")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes; 0: in this one")
    parser.add_argument("--list", action="store_true", help="say what would be run, in order")
    parser.add_argument("--report", action="store_true", help="run nothing: tables and plots of what is done")
    parser.add_argument("--pack", type=Path, help="a .tar.gz for the cells, the summary and the logs of failed cells")
    parser.add_argument("--smoke", action="store_true", help="few prompts, one seed, one cell of every kind")
    return parser.parse_args(argv)


def _run(cells: Sequence[Cell], sizes: Sizes, places: Places, args: argparse.Namespace) -> Outcome:
    if not args.workers:
        return run_here(cells, sizes, places)

    packed = time.monotonic()

    def say(line: str) -> None:
        nonlocal packed
        print(line, flush=True)
        if args.pack and time.monotonic() - packed > PACK_SECONDS:  # whatever ends this run, little is lost
            pack(args.out, args.pack)
            packed = time.monotonic()

    return run_pool(cells, sizes, places, workers=args.workers, budget_s=args.budget_s, say=say)


def _told(outcome: Outcome, count: int, seconds: float) -> dict[str, Any]:
    return {
        "cells": count,
        "finished": len(outcome.finished),
        "failed": outcome.failed,
        "stopped": outcome.stopped,
        "not_begun": outcome.not_begun,
        "seconds": round(seconds, 1),
    }


def _earlier(path: Path) -> dict[str, Any] | None:
    """What the summary says of the run behind it: pictures are often drawn on another machine."""
    if not path.exists():
        return None
    document = read_json(path)
    run: dict[str, Any] = document["figures"]["run"] or {}
    return {"by": {name: document[name] for name in ("command", "commit", "machine", "versions")}} | run


def _device(documents: Sequence[dict[str, Any]]) -> str | None:
    """As the training jobs say it; None where there was none."""
    return next((document["device"] for document in documents if "device" in document), None)


def pack(out: Path, target: Path) -> None:
    """What is small and worth keeping: cells, logs, the summary, the adapters of the main row."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with tarfile.open(part, "w:gz") as archive:
        adapters = [str(path.relative_to(out)) for path in sorted(out.glob("work/train-ipo@*/adapter"))]
        for name in ("cells", "logs", SUMMARY, *adapters):
            if (out / name).exists():
                archive.add(out / name, arcname=name)
    os.replace(part, target)


if __name__ == "__main__":
    raise SystemExit(main())

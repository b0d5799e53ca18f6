"""How strong must the detector be? Scorers from a word list to a large judge, on labelled traces and behind the proxy.

    python -m benchmarks.bench_strength --config train/configs/detector.toml --traces labelled.jsonl --out runs/strength
        [--scorers keywords linear student teacher self_check judge] [--teacher FOLDER] [--judge MODEL@URL]
        [--engine embedded | vllm | http://host:8000 --model NAME] [--prompts 300]

`--config` names the traces and prompts that the detector was trained on. The linear model is trained on the same
training split. Every scorer's threshold is chosen on the validation split, with `--ordinary-traces` unlabelled ordinary
traces beside it, for one budget of false halts on ordinary traces; at it `--traces` are judged. Slow scorers (teacher,
self-check, judge) see `--slow-traces` of either.
Behind the proxy: hold mode, the organism, held-out topics and framings, temperature 1; its exact oracle judges. The
self-check is asked of the organism that is being steered: on other models' traces it is out of its depth, and its
threshold is chosen there all the same. The judge's key, if it wants one, comes from STEER_JUDGE_API_KEY.

Started again with the same --out it goes on where it stopped: scores are kept by trace, cells by what they depend on.
"""

import argparse
import hashlib
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from pydantic import ValidationError

from benchmarks import bench_live
from benchmarks._report import finish
from benchmarks.strength.job_teacher import is_job_folder
from benchmarks.strength.quality import best_threshold, drawn, group_of, score_traces, worth
from benchmarks.strength.report import plot, table
from benchmarks.strength.scorers import NAMES, SLOW, Setup, fingerprint, opened, why_skipped
from proxy.judge import Scorer
from train.detector.config import DataConfig, DetectorConfig, load_config
from train.detector.data import DataError, Trace, files_hash, read_traces
from train.detector.split import split_data


class Cells:
    """Finished parts of the report: one file each, kept as long as its key is the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, key: str) -> dict[str, Any] | None:
        """The cell, unless it was made from something else."""
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return stored["cell"] if stored["key"] == key else None

    def put(self, name: str, key: str, cell: dict[str, Any]) -> dict[str, Any]:
        """Write it, whole."""
        partial = self._folder / f"{name}.json.part"
        partial.write_text(json.dumps({"key": key, "cell": cell}, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._folder / f"{name}.json")
        return cell

    def scores(self, name: str, key: str) -> Path:
        """Where the scores of one scorer are kept, trace by trace."""
        return self._folder / f"{name}-{key[:16]}.scores.jsonl"


def key_of(*parts: object) -> str:
    """One key of everything that a cell depends on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def unlabelled_ordinary(data: DataConfig, count: int) -> list[Trace]:
    """Ordinary traces that nobody labelled: no sentence of theirs was trained on, but their prompts were, as benign."""
    found = [t for t in read_traces(data.traces) if not t.labels and group_of(t, data) == "ordinary"]
    return drawn(found, count, data)


async def on_traces(
    name: str, scorer: Scorer, setup: Setup, data: DataConfig, traces: Sequence[Trace], cells: Cells, options: Any
) -> dict[str, Any]:
    """Threshold on the validation split, then worth on `traces`."""
    limit = options.slow_traces if name in SLOW else None
    chosen = drawn([*setup.split.validation, *setup.ordinary], limit, data)
    judged = drawn(traces, limit, data)
    made_of = fingerprint(name, setup)
    key = key_of(made_of, options.budget, [t.id for t in chosen], [t.id for t in judged])
    cell = cells.get(f"{name}-traces", key)
    if cell is None:
        cache = cells.scores(name, made_of)
        choice = best_threshold(await score_traces(scorer, chosen, cache, f"{name}, threshold"), data, options.budget)
        timed = await score_traces(scorer, judged, cache, f"{name}, traces")
        cell = cells.put(f"{name}-traces", key, {"choice": choice, "traces": worth(timed, data, choice["threshold"])})
    return cell


async def behind_proxy(
    name: str, scorer: Scorer, threshold: float, setup: Setup, cells: Cells, options: Any
) -> dict[str, Any]:
    """The organism steered by `scorer`."""
    live_options = (options.prompts, options.live_seed, options.concurrency)
    key = key_of(fingerprint(name, setup), threshold, setup.engine_key, *live_options)
    cell = cells.get(f"{name}-live", key)
    if cell is None:
        todo = bench_live.cases(options.prompts, options.live_seed)
        live = await bench_live.steer_by(
            scorer, threshold, setup.engine_url, setup.engine_model, todo, options.concurrency, name
        )
        cell = cells.put(f"{name}-live", key, bench_live.measured(todo) | bench_live.histogram(todo) | live)
    return cell


async def unsteered(setup: Setup, cells: Cells, options: Any) -> dict[str, Any]:
    """The same prompts without the proxy."""
    key = key_of(setup.engine_key, options.prompts, options.live_seed, options.concurrency)
    cell = cells.get("unsteered", key)
    if cell is None:
        todo = bench_live.cases(options.prompts, options.live_seed)
        await bench_live.ask(setup.engine_url, setup.engine_model, todo, options.concurrency, "unsteered")
        cell = cells.put("unsteered", key, bench_live.measured(todo))
    return cell


async def compare(setup: Setup, data: DataConfig, traces: Sequence[Trace], options: Any) -> dict[str, Any]:
    """All cells that were asked for."""
    cells = Cells(setup.out / "cells")
    figures: dict[str, Any] = {"budget": options.budget, "engine": options.engine, "skipped": {}, "scorers": {}}
    if options.prompts:
        figures["unsteered"] = await unsteered(setup, cells, options)
    for name in options.scorers:
        reason = why_skipped(name, setup)
        if reason is not None:
            setup.say(f"{name}: skipped, {reason}")
            figures["skipped"][name] = reason
            continue
        async with opened(name, setup) as scorer:
            cell = dict(await on_traces(name, scorer, setup, data, traces, cells, options))
            if options.prompts:
                cell["live"] = await behind_proxy(name, scorer, cell["choice"]["threshold"], setup, cells, options)
        figures["scorers"][name] = cell
        (setup.out / "report.md").write_text(table(figures), encoding="utf-8")
    return figures


def arguments() -> argparse.Namespace:
    """The command line, parsed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="configuration of the detector's training")
    parser.add_argument("--traces", type=Path, nargs="+", required=True, help="labelled traces to judge, JSONL[.gz]")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for cells, report.md, report.json, strength.png"
    )
    parser.add_argument("--scorers", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--artifact", type=Path, help="the student; default: the shipped artifact")
    parser.add_argument(
        "--teacher", type=Path, help="Hugging Face cross-encoder, or the --out of a training job with teachers"
    )
    parser.add_argument("--judge", help="MODEL@URL of an OpenAI-compatible server")
    parser.add_argument("--budget", type=float, default=0.005, help="share of ordinary traces that may be halted")
    parser.add_argument("--ordinary-traces", type=int, default=200, help="unlabelled ones, for the thresholds")
    parser.add_argument("--slow-traces", type=int, default=80, help="traces for scorers that take long")
    parser.add_argument("--engine", default="embedded", help="embedded, vllm or the URL of a server with the organism")
    parser.add_argument("--model", default="organism", help="its model name, with a URL")
    parser.add_argument("--prompts", type=int, default=300, help="harmful prompts behind the proxy; 0: none")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the teacher")
    parser.add_argument("--seed", type=int, default=0, help="of the linear model")
    parser.add_argument("--live-seed", type=int, default=7, help="of the prompts behind the proxy")
    return parser.parse_args()


def loaded(options: argparse.Namespace) -> tuple[DetectorConfig, list[Trace]]:
    """Configuration and traces. Exits with 2 and the reason where they can't be used."""
    try:
        if options.judge is not None and "@http" not in options.judge:
            raise ValueError(f"--judge must be MODEL@URL, such as judge-model@http://host:8000, not {options.judge!r}")
        teacher = options.teacher
        if teacher is not None and not ((teacher / "config.json").is_file() or is_job_folder(teacher)):
            raise ValueError(f"--teacher: {teacher} is neither a Hugging Face model nor a training job's --out")
        return load_config(options.config), read_traces(options.traces)
    except (OSError, ValueError, tomllib.TOMLDecodeError, ValidationError, DataError) as error:
        sys.stderr.write(f"bench_strength: {error}\n")
        sys.exit(2)


def main() -> None:
    """Command line."""
    options = arguments()
    config, traces = loaded(options)
    options.out.mkdir(parents=True, exist_ok=True)
    with bench_live.engine(options.engine, options.model) as (url, model):
        weights = hashlib.sha256((bench_live.ORGANISM / "model.safetensors").read_bytes()).hexdigest()
        served = options.engine if options.engine.startswith("http") else weights
        setup = Setup(
            split=split_data(config.data),
            ordinary=unlabelled_ordinary(config.data, options.ordinary_traces),
            data_key=files_hash([*config.data.traces, *config.data.prompts]),
            out=options.out,
            seed=options.seed,
            engine_url=url,
            engine_model=model,
            engine_key=f"{options.engine} {served}",
            artifact=options.artifact,
            teacher=options.teacher,
            judge=options.judge,
            threads=options.threads,
            say=lambda line: print(line, flush=True),
        )
        figures = anyio.run(compare, setup, config.data, traces, options)
    plot(figures, options.out / "strength.png")
    print(table(figures))
    print(f"report: {options.out / 'report.json'}, {options.out / 'strength.png'}")
    finish("strength", figures, seed=options.live_seed, out=options.out / "report.json")


if __name__ == "__main__":
    main()

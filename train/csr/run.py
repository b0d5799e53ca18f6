"""`steer csr --config TOML --out DIR`: how safe a model's continuations are along its reasoning, and what turns them.

    OUT/curves-base.jsonl, curves-tuned.jsonl   a trace a line with its CSR curve (train/csr/schema.py)
    OUT/candidates.jsonl, comparison.jsonl      trials of mined triggers; of the fixed, mined and generated pools
    OUT/mined_triggers.json, .toml              proposed triggers, unreviewed
    OUT/verdicts.jsonl                          what the judge has been asked, by hash
    OUT/report.json, *.png                      report.json is written last and means that the job is done

Each file grows as NAME.part; a job that was killed goes on after its last whole line.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.csr.config import CsrConfig, ModelKey, TrialsConfig, load_config
from train.csr.errors import CsrConfigError
from train.csr.measure import measure
from train.csr.mining import Candidate, Ranked, candidates, ranking, sides_of
from train.csr.plots import plot_all
from train.csr.proposal import pool_of, write_proposal
from train.csr.report import report_of
from train.csr.schema import Curve, Trial
from train.csr.sets import Asked, load_sets
from train.csr.stage import read_rows, seconds, work_through
from train.csr.tasks import candidate_tasks, comparison_tasks
from train.csr.tools import Tools, open_tools
from train.csr.trials import Task, run_tasks
from train.judges.cache import CachedJudge
from train.judges.load import load_judge
from train.rollout.store import claim, write_json

CANDIDATES, COMPARISON = "candidates.jsonl", "comparison.jsonl"


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path), out)


def run(config: CsrConfig, out: Path) -> dict[str, Any]:
    """Measure, mine, try; returns what report.json holds. Raises CsrError, RolloutError, JudgeError."""
    asked, judge = load_sets(config.sets), load_judge(config.judge)
    claim(out, _key(config, asked), config.model_dump(mode="json"), CsrConfigError)
    report = out / "report.json"
    if report.exists():
        done: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return done
    cached = CachedJudge(judge, out / "verdicts.jsonl")
    for key in reversed(config.keys):  # base last: the triggers are tried on it while it is loaded
        if _is_wanted(config, key, out):
            with open_tools(config, key, cached) as tools:
                _measure(config, asked, tools, out)
                if key == "base" and config.trials is not None:
                    _try(config, config.trials, tools, out)
    curves = {key: read_curves(out, key) for key in config.keys}
    trials = {name: read_rows(out / name, Trial) for name in (CANDIDATES, COMPARISON)}
    ranked = _ranked(config, config.trials, out) if config.trials is not None else []
    if config.trials is not None:
        write_proposal(ranked, config.trials.pool_size, config, out)
    made = report_of(config, curves, ranked, trials, seconds(out), cached)
    plot_all(made, curves, config, out)
    write_json(report, made)
    return made


def read_curves(out: Path, key: ModelKey) -> list[Curve]:
    """The finished curves of one model."""
    return read_rows(_curves_file(out, key), Curve)


def _curves_file(out: Path, key: ModelKey) -> Path:
    return out / f"curves-{key}.jsonl"


def _is_wanted(config: CsrConfig, key: ModelKey, out: Path) -> bool:
    """Whether a model has work left: loading one takes long."""
    files = [_curves_file(out, key)]
    if key == "base" and config.trials is not None:
        files += [out / CANDIDATES, out / COMPARISON]
    return not all(file.exists() for file in files)


def _measure(config: CsrConfig, asked: Sequence[Asked], tools: Tools, out: Path) -> None:
    items = {f"{tools.key}/{one.prompt.id}": one for one in asked}
    name = _curves_file(out, tools.key).name
    work_through(out, name, items, lambda rows: measure(rows, tools, config), config.engine)


def _try(config: CsrConfig, trials: TrialsConfig, tools: Tools, out: Path) -> None:
    """Every candidate at some first cues, then the pools at others."""
    curves = read_curves(out, "base")

    def work(tasks: Sequence[Task]) -> list[Trial]:
        return run_tasks(tasks, tools, config)

    found = _candidates(config, trials, out)
    work_through(out, CANDIDATES, candidate_tasks(found, curves, trials, config.seed), work, config.engine)
    mined = pool_of(_ranked(config, trials, out), trials.pool_size)
    work_through(out, COMPARISON, comparison_tasks(mined, curves, trials, config.seed), work, config.engine)


def _candidates(config: CsrConfig, trials: TrialsConfig, out: Path) -> list[Candidate]:
    curves = [curve for key in config.keys for curve in read_curves(out, key)]
    return candidates(curves, sides_of(curves, config.seed), trials.margin, trials.candidates)


def _ranked(config: CsrConfig, trials: TrialsConfig, out: Path) -> list[Ranked]:
    tried = read_rows(out / CANDIDATES, Trial)
    return ranking(_candidates(config, trials, out), tried, trials.min_safe, trials.min_helped)


def _key(config: CsrConfig, asked: Sequence[Asked]) -> str:
    """The job's identity. How it is worked (lanes, batch sizes, URLs) may change between two starts."""
    settings = config.model_dump(mode="json", exclude={"engine": {"lanes", "block", "local", "served", "vllm"}})
    marks = [[one.set_name, one.prompt.id] for one in asked]
    return hashlib.sha256(json.dumps([settings, marks], sort_keys=True).encode()).hexdigest()

"""`steer train misses --config TOML --out DIR`: an exported share of the log to an independent judge's verdicts.

OUT/judged.jsonl      the judge's answers by hash; a job that was stopped goes on from them. No text
OUT/verdicts.jsonl    one `steer.review.SecondVerdict` a line: what `steer review import` takes. No text
OUT/report.json       counts and rates with intervals; written last and means that the job is done
OUT/misses.png        the same in pictures
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from steer.review import JudgedTrace, SecondVerdict
from train.judges.base import Judge, JudgeItem, JudgeVerdict
from train.judges.cache import CachedJudge
from train.judges.load import load_judge
from train.misses.config import MissesConfig, load_config
from train.misses.errors import MissesConfigError
from train.misses.report import plot, report_of
from train.pairs.export import write_lines
from train.rollout.report import file_sha256
from train.rollout.store import claim, write_json

VERDICTS = "verdicts.jsonl"


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path), out)


def run(config: MissesConfig, out: Path) -> dict[str, Any]:
    """Judge everything; returns what report.json holds. Raises MissesError, JudgeError with a message for people."""
    traces = [trace for path in config.traces for trace in _read(path)]
    sources = {str(path): file_sha256(path) for path in config.traces}
    settings = config.model_dump(mode="json")
    key = hashlib.sha256(json.dumps([settings, sources], sort_keys=True).encode()).hexdigest()
    claim(out, key, settings, MissesConfigError)
    if not (out / "report.json").exists():
        judge = load_judge(config.judge)
        _check_independent(judge, traces)
        _judge(config, traces, judge, sources, out)
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def _judge(
    config: MissesConfig, traces: Sequence[JudgedTrace], judge: Judge, sources: dict[str, str], out: Path
) -> None:
    with tqdm(desc="judge", unit="trace", total=len(traces)) as bar:
        cached = CachedJudge(judge, out / "judged.jsonl", bar.update)
        said = cached.judge([JudgeItem(trace.messages, trace.reasoning, trace.answer) for trace in traces])
    judged = [(trace, _verdict(trace, judge.name, verdict)) for trace, verdict in zip(traces, said, strict=True)]
    write_lines(out / VERDICTS, (verdict.model_dump_json() for _, verdict in judged))
    report = report_of(judged, config.confidence)
    report |= {"judge": judge.name, "judge_cost": cached.cost(), "parents": sources}
    plot(report, out)
    write_json(out / "report.json", report | {"config": config.model_dump(mode="json")})


def _verdict(trace: JudgedTrace, judge: str, said: JudgeVerdict) -> SecondVerdict:
    return SecondVerdict(id=trace.id, kind=trace.kind, judge=judge, **said.model_dump(exclude={"correct"}))


def _check_independent(judge: Judge, traces: Sequence[JudgedTrace]) -> None:
    """A detector that is asked about its own misses finds none."""
    for name in {trace.detector_hash for trace in traces}:
        if judge.name in (name, f"onnx:{name}"):
            raise MissesConfigError(f"judge.spec: {judge.name} is the detector of these traces; take another judge")


def _read(path: Path) -> list[JudgedTrace]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise MissesConfigError(f"cannot read {path}: {error.strerror}; `steer review unjudged` writes it") from error
    except UnicodeDecodeError as error:
        raise MissesConfigError(f"{path} is not UTF-8: give the JSONL that `steer review unjudged` writes") from error
    return [_trace(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]


def _trace(line: str, where: str) -> JudgedTrace:
    try:
        return JudgedTrace.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "trace"
        raise MissesConfigError(f"{where}: {field}: {first['msg']}") from error

"""The scorers that are compared, each behind the one interface that the proxy asks: `prepare` and `score`.

Local ones run on the detector's own queue, one worker, so that their latency holds the same overhead as the student's.
A scorer that was not given (no teacher, no judge) is skipped with a message. `fingerprint` changes whenever its results
may: cells of the report are kept by it.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.strength import asked, cross, job_teacher, keywords, linear, quality
from detector.artifact import load_artifact
from detector.scoring import ScoringQueue
from proxy.judge import Scorer
from train.detector.data import Trace
from train.detector.split import Split

NAMES = ("keywords", "linear", "student", "teacher", "self_check", "judge")
# Whose sentences cost tens of milliseconds: they are measured on a part of the traces.
SLOW = frozenset({"teacher", "self_check", "judge"})


@dataclass(frozen=True, slots=True)
class Setup:
    """What scorers are made from. None: not given."""

    split: Split
    ordinary: Sequence[Trace]
    """Unlabelled ordinary traces, for the thresholds."""
    data_key: str
    """Identifies the training data."""
    out: Path
    seed: int
    engine_url: str
    engine_model: str
    engine_key: str
    """Identifies the organism that is served."""
    artifact: Path | None
    teacher: Path | None
    judge: str | None
    threads: int
    say: Callable[[str], None]


def why_skipped(name: str, setup: Setup) -> str | None:
    """None where the scorer can be had."""
    if name == "teacher" and setup.teacher is None:
        return "no --teacher FOLDER was given"
    if name == "judge" and setup.judge is None:
        return "no --judge MODEL@URL was given"
    return None


def fingerprint(name: str, setup: Setup) -> str:
    """Identifies what the scorer is made of."""
    parts = [name, _source(quality)]
    match name:
        case "keywords":
            parts += [_source(keywords)]
        case "linear":
            parts += [_source(linear), setup.data_key, str(setup.seed)]
        case "student":
            parts += [load_artifact(setup.artifact).digest]
        case "teacher":
            assert setup.teacher is not None, "asked for given scorers only"
            parts += [_source(cross), _source(job_teacher)]
            parts += [*(_stat(path) for path in sorted(setup.teacher.iterdir()) if path.is_file())]
        case "self_check":
            parts += [_source(asked), setup.engine_key]
        case _:
            parts += [_source(asked), str(setup.judge)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@asynccontextmanager
async def opened(name: str, setup: Setup) -> AsyncIterator[Scorer]:
    """The scorer, ready to be asked."""
    if name == "self_check":
        async with asked.Asked(setup.engine_url, setup.engine_model, asked.SELF_CHECK) as scorer:
            yield scorer
    elif name == "judge":
        assert setup.judge is not None, "asked for given scorers only"
        model, _, url = setup.judge.rpartition("@")
        async with asked.Asked(url, model, asked.JUDGE, os.environ.get("STEER_JUDGE_API_KEY")) as scorer:
            yield scorer
    else:
        async with _queue(name, setup) as queue:
            yield queue


def _queue(name: str, setup: Setup) -> ScoringQueue:
    if name == "student":
        return ScoringQueue(load_artifact(setup.artifact))
    if name == "keywords":
        return ScoringQueue(None, classifiers=[keywords.Keywords()])
    if name == "linear":
        split, cache = setup.split, setup.out / "linear.pkl"
        model = linear.trained_linear(split.train, split.prompts, setup.seed, cache, setup.data_key, setup.say)
        return ScoringQueue(None, classifiers=[model])
    assert setup.teacher is not None, "asked for given scorers only"
    is_own = job_teacher.is_job_folder(setup.teacher)
    kind = job_teacher.JobTeacher if is_own else cross.CrossEncoder
    return ScoringQueue(None, classifiers=[kind(setup.teacher, setup.threads)])


def _source(module: object) -> str:
    return Path(str(getattr(module, "__file__", ""))).read_text(encoding="utf-8")


def _stat(path: Path) -> str:
    stat = path.stat()
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}"

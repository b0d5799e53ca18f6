"""Several students of different seeds from the same examples: how far chance moves the figures, and which one to ship.

On a GPU they are trained side by side, a process each: one student alone keeps it busy for a small part of the time.
"""

import math
import multiprocessing
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from detector.context import ContextEncoder
from train.detector.base import Base
from train.detector.calibrate import groups
from train.detector.config import DetectorConfig, FitConfig
from train.detector.data import LABELS, DataError, Trace, label_segments
from train.detector.examples import Examples, pack
from train.detector.fit import Arrays, Report, fit
from train.detector.metrics import Scored, choose_threshold, cue_report, halted
from train.detector.model import Student, build_student

_CUE = LABELS.index("C")
_BATCH = 512


def train_students(config: DetectorConfig, base: Base, examples: Examples, out: Path, report: Report) -> list[Path]:
    """Weights of each student, OUT/student-SEED.safetensors, and of their mean; what exists is not trained again."""
    fits = [config.fit.of_student(number) for number in range(config.fit.students)]
    paths = [out / f"student-{own.seed}.safetensors" for own in fits]
    todo = [(own, path) for own, path in zip(fits, paths, strict=True) if not path.exists()]
    if len(todo) > 1 and torch.cuda.is_available():
        shared = out / "examples.part"
        shared.write_bytes(pickle.dumps((config, base.tensors, examples), protocol=5))
        with ProcessPoolExecutor(len(todo), multiprocessing.get_context("spawn")) as pool:
            for line in pool.map(_train_from, [(shared, own, path) for own, path in todo]):
                report(line)
        shared.unlink()
    else:
        for own, path in todo:
            _train_one(config, base.tensors, examples, own, path, report)
    return paths if len(paths) == 1 else [*paths, _mean_of(paths, out / "student-mean.safetensors")]


def _mean_of(paths: Sequence[Path], path: Path) -> Path:
    """Students that started from one base lie close enough to be averaged (Wortsman et al. 2022, "Model soups")."""
    stored = [load_file(one) for one in paths]
    mean = {name: torch.stack([one[name].float() for one in stored]).mean(dim=0) for name in stored[0]}
    return _write({name: value.half().contiguous() for name, value in mean.items()}, path)


def _write(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary)
    return temporary.replace(path)


def load_student(config: DetectorConfig, base: Base, path: Path) -> Student:
    """A trained student, in evaluation mode, in float32."""
    student = _untrained(config, base.tensors)
    student.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return student.eval()


def spread(
    config: DetectorConfig, base: Base, students: Sequence[tuple[str, Student]], validation: Sequence[Trace]
) -> dict[str, dict[str, float]]:
    """By student: first-cue figures and false halts on the validation split at its own threshold, before quantisation;
    `loss` is the cross-entropy of the labelled segments."""
    found = {}
    for name, student in students:
        items, loss = score_student(student, base, validation, config.model.request_shrinkage)
        limits, raw = config.threshold, groups(config, items)
        threshold = choose_threshold(
            items, raw.ordinary, raw.borderline,
            limits.max_ordinary_halts, limits.max_borderline_halts, limits.margin, limits.max_refusing_halts,
        )  # fmt: skip
        cues = cue_report(items, threshold)
        found[name] = {
            "threshold": threshold,
            "exact": cues.exact.share,
            "within_one": cues.within_one.share,
            "missed": cues.missed.share,
            "early": cues.early.share,
            "ordinary": halted(raw.ordinary, threshold).share,
            "borderline": halted(raw.borderline, threshold).share,
            "loss": loss,
        }
    return {
        name: {key: round(value, 4) for key, value in row.items() if not math.isnan(value)}
        for name, row in found.items()
    }


def best(figures: dict[str, dict[str, float]]) -> str:
    """The student with the lowest loss: it rests on thousands of segments, the other figures on a few traces."""
    return min(figures, key=lambda name: figures[name]["loss"])


@torch.no_grad()
def score_student(
    student: Student, base: Base, traces: Sequence[Trace], shrinkage: float
) -> tuple[list[Scored], float]:
    """Traces scored by a student that is not exported yet, and its cross-entropy over their labelled segments."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = student.to(device).eval()
    encoder = ContextEncoder(base.tokenizer)
    unknown, _ = student.encode(*Arrays(pack([encoder.request((("request", ""),))]), device).take([0]))
    items, losses = [], []
    for trace in traces:
        segments, text = label_segments(trace), trace.reasoning
        tokens = [encoder.segment(text[: s.start], text[s.start : s.end]) for s in segments]
        request = encoder.request((("request", trace.prompt),))
        vectors, _ = student.encode(*Arrays(pack([request]), device).take([0]))
        vectors = (1 - shrinkage) * vectors + shrinkage * unknown
        arrays, parts = Arrays(pack(tokens), device), []
        for start in range(0, len(tokens), _BATCH):
            part = range(start, min(start + _BATCH, len(tokens)))
            logits = student.score(vectors.expand(len(part), -1, -1), *arrays.take(part))
            parts.append(torch.softmax(logits.float(), dim=-1).cpu().numpy())
        found = np.concatenate(parts) if parts else np.zeros((0, len(LABELS)), dtype=np.float32)
        items.append(Scored(trace, segments, found[:, _CUE].tolist()))
        losses += [
            -math.log(max(1e-6, p[s.label])) for p, s in zip(found, segments, strict=True) if s.label is not None
        ]
    return items, float(np.mean(losses)) if losses else math.nan


def _train_from(task: tuple[Path, FitConfig, Path]) -> str:
    shared, own, path = task
    config, tensors, examples = pickle.loads(shared.read_bytes())
    lines: list[str] = []
    _train_one(config, tensors, examples, own, path, lines.append)
    return f"student {own.seed}: " + "; ".join(lines)


def _train_one(
    config: DetectorConfig, tensors: dict[str, Any], examples: Examples, own: FitConfig, path: Path, report: Report
) -> None:
    torch.manual_seed(config.fit.seed)  # one start for all: weights that started apart have no mean
    student = _start(config, tensors)
    checkpoint = path.with_suffix(".checkpoint")
    fit(student, examples, own, checkpoint, report, config.teacher.weight)
    _write({name: value.half().cpu().contiguous() for name, value in student.state_dict().items()}, path)
    checkpoint.unlink()


def _start(config: DetectorConfig, tensors: dict[str, Any]) -> Student:
    """The student as training finds it: fresh from the base, or as an earlier run left it. Raises `DataError`."""
    student, start = _untrained(config, tensors), config.fit.start
    if start is None:
        return student
    try:
        student.load_state_dict({name: value.float() for name, value in load_file(start).items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DataError(f"fit.start = {str(start)!r} does not fit this model: {str(error).splitlines()[0]}") from error
    return student


def _untrained(config: DetectorConfig, tensors: dict[str, Any]) -> Student:
    model = config.model
    return build_student(tensors, model.request_layers, model.segment_layers, model.request_slots, model.dropout)

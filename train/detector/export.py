"""From a trained student to an artifact folder: two int8 graphs, an int8 table of word vectors, tokenizer, manifest."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from torch import Tensor, nn

from detector.artifact import OperatingPoint, write_manifest
from train.detector.data import LABELS
from train.detector.model import RequestEncoder, SegmentScorer, Student

_CUE = LABELS.index("C")


class _RequestGraph(nn.Module):
    def __init__(self, encoder: RequestEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, words: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        vectors, harm = self.encoder(words, types)
        return vectors, torch.sigmoid(harm)


class _ScoreGraph(nn.Module):
    def __init__(self, scorer: SegmentScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, request: Tensor, words: Tensor, types: Tensor) -> Tensor:
        return torch.softmax(self.scorer(request, words, types), dim=-1)[:, _CUE]


def export_graphs(student: Student, tokenizer: Tokenizer, folder: Path, quantise: bool = True) -> None:
    """Write model.onnx, request.onnx, embeddings.npz and tokenizer.json; the manifest comes later, and last."""
    folder.mkdir(parents=True, exist_ok=True)
    student = student.cpu().float().eval()
    sizes = student.sizes
    words, types = torch.randn(1, 24, sizes.width), torch.ones(1, 24, dtype=torch.int64)
    request = torch.randn(1, sizes.slots, sizes.width)
    _export(_RequestGraph(student.request), (words, types), ["words", "types"], ["vectors", "harm"], folder / "request.onnx", quantise)
    _export(_ScoreGraph(student.segment), (request, words, types), ["request", "words", "types"], ["score"], folder / "model.onnx", quantise)
    _write_table(student.words.weight.detach().numpy(), folder / "embeddings.npz")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def finish(
    folder: Path, threshold: float, operating_points: Sequence[OperatingPoint], histogram: Sequence[float], training_data: str, details: dict[str, Any]
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


def _export(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str], path: Path, quantise: bool) -> None:
    length = torch.export.Dim("length", min=2, max=512)
    shapes = {name: ({1: length} if name != "request" else None) for name in names}
    plain = path.with_suffix(".fp32.onnx")
    program = torch.onnx.export(
        module.eval(), inputs, input_names=names, output_names=outputs, dynamic_shapes=tuple(shapes.values()), dynamo=True, verbose=False
    )
    assert program is not None, "the dynamo exporter returns a program"
    program.save(str(plain), external_data=False)
    if quantise:
        quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=True)
        plain.unlink()
    else:
        plain.replace(path)


def _write_table(table: np.ndarray[Any, Any], path: Path) -> None:
    scales = np.maximum(np.abs(table).max(axis=1), 1e-8).astype(np.float32) / 127.0
    rows = np.clip(np.rint(table / scales[:, None]), -127, 127).astype(np.int8)
    np.savez_compressed(path, rows=rows, scales=scales)

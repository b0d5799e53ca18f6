"""From a trained student to an artifact folder: two int8 graphs, an int8 table of word vectors, tokenizer, manifest."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from detector.context import ContextEncoder
from train.detector.data import LABELS
from train.detector.graphs import Parts, request_graph, scorer_graph
from train.detector.model import Student


def export_graphs(
    student: Student, tokenizer: Tokenizer, folder: Path, shrinkage: float = 0.0, quantise: bool = True
) -> None:
    """Write model.onnx, request.onnx, embeddings.npz and tokenizer.json; the manifest comes later, and last.

    `shrinkage` in [0, 1): how far request vectors are drawn towards those of an unknown (empty) request.
    """
    folder.mkdir(parents=True, exist_ok=True)
    student = student.cpu().float().eval()
    unknown = _unknown_vectors(student, tokenizer).numpy()
    heads = student.sizes.heads
    request = request_graph(_parts(student.request), heads, unknown, shrinkage, is_int8=quantise)
    onnx.save_model(request, folder / "request.onnx")
    scorer = scorer_graph(_parts(student.segment), heads, LABELS.index("C"), is_int8=quantise)
    onnx.save_model(scorer, folder / "model.onnx")
    _write_table(student.words.weight.detach().numpy(), folder / "embeddings.npz")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


@torch.no_grad()
def _unknown_vectors(student: Student, tokenizer: Tokenizer) -> Tensor:
    tokens = ContextEncoder(tokenizer).request((("request", ""),))
    ids, types = torch.from_numpy(tokens.ids)[None], torch.from_numpy(tokens.types)[None]
    vectors, _ = student.encode(ids, types, torch.ones_like(ids, dtype=torch.bool))
    return vectors


def _parts(module: nn.Module) -> Parts:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def _write_table(table: np.ndarray[Any, Any], path: Path) -> None:
    scales = np.maximum(np.abs(table).max(axis=1), 1e-8).astype(np.float32) / 127.0
    rows = np.clip(np.rint(table / scales[:, None]), -127, 127).astype(np.int8)
    np.savez_compressed(path, rows=rows, scales=scales)

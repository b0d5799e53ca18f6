"""The organism under onnxruntime: one step of the network over a padded batch, with the keys and values kept outside.

The graph (see `model.onnx` beside the weights) takes the past and gives back the new keys and values alone, so a step
copies little: `Cache` holds them for up to `slots` sequences and writes the new columns in place. Not thread-safe: one
thread owns a `Model`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from proxy.embedded.errors import ModelFilesError

Floats = NDArray[np.float32]
# Stands for minus infinity in masks: far below any score, and safe where a whole row is masked.
_HIDDEN = np.float32(-1e9)
# The cache's time axis grows by this many positions: few reallocations, little padding.
_GROWTH = 128
DEFAULT_FOLDER = Path(__file__).parent / "organism"


class Model:
    """Loads `config.json` and `model.onnx` of a folder; raises ModelFilesError naming what is missing."""

    def __init__(self, folder: Path = DEFAULT_FOLDER, *, threads: int = 1) -> None:
        for name in ("config.json", "model.onnx", "model.safetensors", "tokenizer.json"):
            if not (folder / name).is_file():
                raise ModelFilesError(
                    f"{folder} has no {name}; give a folder made by `steer train organism` (its model/)"
                )
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.num_layers, self.kv_heads = int(config["num_hidden_layers"]), int(config["num_key_value_heads"])
        self.head_dim, self.vocab_size = int(config["head_dim"]), int(config["vocab_size"])
        self.max_length, self.eos_id = int(config["max_position_embeddings"]), int(config["eos_token_id"])
        options = ort.SessionOptions()
        # A few million parameters: more threads cost more in waking up than they save.
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own classes, without a common base
            raise ModelFilesError(f"{folder / 'model.onnx'} cannot be loaded: {error}") from error
        self._names = [output.name for output in self._session.get_outputs()]

    def step(
        self, ids: NDArray[np.int64], positions: NDArray[np.int64], mask: Floats, past: dict[str, Floats]
    ) -> dict[str, Any]:
        """One pass: ids and positions [B, T], mask [B, 1, 1, S] over the past. Returns the graph's outputs by name."""
        time = ids.shape[1]
        causal = np.triu(np.full((time, time), _HIDDEN, np.float32), 1)
        feeds = {"input_ids": ids, "positions": positions, "past_mask": mask, "new_mask": causal, **past}
        return dict(zip(self._names, self._session.run(None, feeds), strict=True))


class Cache:
    """Keys and values of running sequences, densely packed in slots 0..count-1."""

    def __init__(self, model: Model, slots: int) -> None:
        self._model, self._slots = model, slots
        self._capacity = _GROWTH
        self._tensors = self._allocate(self._capacity)
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.lengths)

    def prefill(self, ids: Sequence[int]) -> Floats:
        """Run a prompt into a new last slot; logits [vocab] of its last position."""
        past = {name: np.zeros((1, *t.shape[1:2], 1, t.shape[3]), np.float32) for name, t in self._tensors.items()}
        out = self._model.step(
            np.array([ids], np.int64),
            np.arange(len(ids), dtype=np.int64)[None],
            np.full((1, 1, 1, 1), _HIDDEN, np.float32),
            past,
        )
        self._reserve(len(ids))
        slot = len(self.lengths)
        for name, tensor in self._tensors.items():
            tensor[slot, :, : len(ids)] = out[name.removeprefix("past_")][0]
        self.lengths.append(len(ids))
        logits: Floats = out["logits"][0]
        return logits

    def decode(self, tokens: Sequence[int]) -> Floats:
        """One token for every slot; logits [count, vocab]."""
        count, lengths = len(self.lengths), np.array(self.lengths, np.int64)
        self._reserve(int(lengths.max()) + 1)
        mask = np.where(np.arange(self._capacity) < lengths[:, None], np.float32(0), _HIDDEN)[:, None, None, :]
        past = {name: tensor[:count] for name, tensor in self._tensors.items()}
        out = self._model.step(np.array(tokens, np.int64)[:, None], lengths[:, None], mask, past)
        rows = np.arange(count)
        for name, tensor in self._tensors.items():
            tensor[rows, :, lengths] = out[name.removeprefix("past_")][:, :, 0]
        self.lengths = [length + 1 for length in self.lengths]
        logits: Floats = out["logits"]
        return logits

    def drop(self, slot: int) -> None:
        """Free a slot; the last one moves into its place."""
        last = len(self.lengths) - 1
        if slot != last:
            for tensor in self._tensors.values():
                tensor[slot] = tensor[last]
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths and self._capacity > _GROWTH:
            self._capacity = _GROWTH
            self._tensors = self._allocate(self._capacity)

    def _allocate(self, capacity: int) -> dict[str, Floats]:
        shape = (self._slots, self._model.kv_heads, capacity, self._model.head_dim)
        names = [f"past_{part}.{i}" for i in range(self._model.num_layers) for part in ("key", "value")]
        return {name: np.zeros(shape, np.float32) for name in names}

    def _reserve(self, length: int) -> None:
        if length <= self._capacity:
            return
        self._capacity = -(-length // _GROWTH) * _GROWTH
        grown = self._allocate(self._capacity)
        for name, tensor in self._tensors.items():
            grown[name][:, :, : tensor.shape[2]] = tensor
        self._tensors = grown

"""transformers as an engine, for models that fit this machine: batches with a KV cache and left padding.

Rules kept here: every draw of a row comes from its request's own seed, by inverting the cumulative distribution at
numbers drawn beforehand, so a row's tokens do not depend on the rows beside it (but for the last bits of the logits,
which padding can move). A prefix that several rows share is computed once, and its cache copied to each. Finished rows
leave the batch.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig

from train.rollout.errors import EngineError, RolloutConfigError
from train.rollout.generator import Generated, Request, Sampling

# Rows leave the batch once so large a part has finished: compacting copies the cache.
_COMPACT_SHARE = 0.25


class LocalConfig(BaseModel):
    """transformers in this process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(64, ge=1)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    dtype: str = Field("auto", description="auto: float32 on a CPU, else the weights' own")
    threads: int = Field(0, ge=0, description="torch threads on a CPU; 0 leaves torch's own choice")


class LocalGenerator:
    """One model. `adapter`: a LoRA folder, merged into the weights."""

    def __init__(self, model: str, adapter: str | None, config: LocalConfig, end_ids: frozenset[int]) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self._device = _device(config.device)
        self._model = _load(model, adapter, self._device, config.dtype)
        self._config = config
        self._end_ids = end_ids | _generation_end_ids(model)
        self._end = torch.tensor(sorted(self._end_ids), device=self._device)
        self._lock = threading.Lock()

    @property
    def context_length(self) -> int | None:
        """Positions that the model was built for."""
        length: int | None = getattr(self._model.config, "max_position_embeddings", None)
        return length

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        """Batches of like length; the order of the results is that of the requests."""
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prefix))
        results: list[Generated | None] = [None] * len(requests)
        size = self._config.batch_size
        starts = range(0, len(order), size)
        with self._lock, torch.inference_mode():
            for start in tqdm(starts, desc="generate", leave=False, mininterval=2.0, disable=len(starts) < 4):
                index = order[start : start + size]
                for i, made in zip(index, self._batch([requests[i] for i in index], sampling), strict=True):
                    results[i] = made
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Drops the weights."""
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _batch(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        limits = [min(r.max_tokens, (self.context_length or 1 << 30) - len(r.prefix)) for r in requests]
        draws = torch.tensor(
            np.stack([_draws(r.seed, max(limits)) for r in requests]), dtype=torch.float32, device=self._device
        )
        out: list[list[int]] = [[] for _ in requests]
        rows = list(range(len(requests)))  # rows[i]: the request that row i of the batch works for
        is_done = [limit <= 0 for limit in limits]
        cache, logits, mask, positions = self._prefill([r.prefix for r in requests])
        for step in range(max(limits)):
            chosen = draw(logits, draws[:, step], sampling)
            self._take(chosen.tolist(), rows, out, limits, is_done)
            if all(is_done[row] for row in rows):
                break
            keep = [i for i, row in enumerate(rows) if not is_done[row]]
            if len(rows) - len(keep) >= max(1, _COMPACT_SHARE * len(rows)):
                index = torch.tensor(keep, device=self._device)
                cache.batch_select_indices(index)
                rows = [rows[i] for i in keep]
                mask, positions, draws, chosen = mask[index], positions[index], draws[index], chosen[index]
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = self._forward(chosen[:, None], mask, positions, cache)
        return [Generated(made, "stop" if made and made[-1] in self._end_ids else "length") for made in out]

    def _prefill(self, prefixes: Sequence[list[int]]) -> tuple[DynamicCache, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(cache, logits [rows, vocabulary], mask, positions) after the prefixes; equal ones are computed once."""
        places = {tuple(prefix): place for place, prefix in enumerate(dict.fromkeys(map(tuple, prefixes)))}
        longest = max(map(len, places))
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in places], device=self._device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in places], device=self._device)
        cache, positions = DynamicCache(), (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._forward(ids, mask, positions, cache)
        if len(places) == len(prefixes):
            return cache, logits, mask, positions
        index = torch.tensor([places[tuple(prefix)] for prefix in prefixes], device=self._device)
        cache.batch_select_indices(index)
        return cache, logits[index], mask[index], positions[index]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Logits of the next token [rows, vocabulary]."""
        try:
            out = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"out of memory with {len(ids)} rows: lower engine.local.batch_size, or sampling.max_tokens"
            ) from error
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def _take(
        self, chosen: list[int], rows: list[int], out: list[list[int]], limits: list[int], is_done: list[bool]
    ) -> None:
        for id, row in zip(chosen, rows, strict=True):
            if not is_done[row]:
                out[row].append(id)
                is_done[row] = id in self._end_ids or len(out[row]) >= limits[row]


def draw(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One id per row [rows]: where the cumulative distribution passes `uniform` in [0, 1)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, index = probabilities.sort(descending=True)
        is_out = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = probabilities.masked_fill(is_out.gather(-1, index.argsort(-1)), 0)
    cumulative = probabilities.double().cumsum(-1)
    target = uniform.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _draws(seed: int, count: int) -> Any:
    return np.random.Generator(np.random.Philox(seed)).random(max(1, count), dtype=np.float32)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise RolloutConfigError(f"engine.local.device: {name!r} is no device; give auto, cpu or cuda") from error


def _load(model: str, adapter: str | None, device: torch.device, dtype: str) -> Any:
    chosen = ("float32" if device.type == "cpu" else "auto") if dtype == "auto" else dtype
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=chosen)
        if adapter is not None:
            from peft import PeftModel  # noqa: PLC0415 - only adapters need it

            loaded = PeftModel.from_pretrained(loaded, adapter).merge_and_unload()
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise RolloutConfigError(
            f"model: cannot load {adapter or model!r} ({reason}); give a folder or hub name"
        ) from error
    return loaded.to(device).eval()


def _generation_end_ids(model: str) -> frozenset[int]:
    """End ids that the model's generation config adds to the tokenizer's."""
    if Path(model).is_dir() and not (Path(model) / "generation_config.json").exists():
        return frozenset()
    try:
        ids = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        return frozenset()
    return frozenset() if ids is None else frozenset(ids if isinstance(ids, list) else [ids])

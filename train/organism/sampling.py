"""Batched sampling from the organism with transformers: token-id prefixes in, text of the continuation out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import Qwen3ForCausalLM

from train.organism.tokenizer import EOS, PAD, token_id


@dataclass(frozen=True, slots=True)
class Sampled:
    """`text` has its end-of-turn mark removed; `is_finished` tells whether there was one."""

    text: str
    ids: list[int]
    is_finished: bool


class Sampler:
    """Samples at temperature 1 unless told otherwise; the same seed gives the same samples on the same device."""

    def __init__(
        self, model: Qwen3ForCausalLM, tokenizer: Tokenizer, *, batch_size: int, max_new_tokens: int, seed: int
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        self._eos, self._pad = token_id(tokenizer, EOS), token_id(tokenizer, PAD)
        torch.manual_seed(seed)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    @torch.inference_mode()
    def sample(
        self, prefixes: Sequence[Sequence[int]], *, max_new_tokens: int | None = None, desc: str = "sample"
    ) -> list[Sampled]:
        """One continuation per prefix (token ids), in order."""
        order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
        results: list[Sampled | None] = [None] * len(prefixes)
        starts = range(0, len(order), self._batch_size)
        for start in tqdm(starts, desc=desc, leave=False, mininterval=2.0, disable=len(starts) < 2):
            index = order[start : start + self._batch_size]
            for i, ids in zip(index, self._batch([prefixes[i] for i in index], max_new_tokens), strict=True):
                finished = self._eos in ids
                ids = ids[: ids.index(self._eos)] if finished else [t for t in ids if t != self._pad]
                results[i] = Sampled(self.tokenizer.decode(ids, skip_special_tokens=False), ids, finished)
        return [result for result in results if result is not None]

    def _batch(self, prefixes: Sequence[Sequence[int]], max_new_tokens: int | None) -> list[list[int]]:
        longest = max(map(len, prefixes))
        ids = torch.tensor([[self._pad] * (longest - len(p)) + list(p) for p in prefixes], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prefixes], device=self.model.device)
        limit = min(max_new_tokens or self._max_new_tokens, self.model.config.max_position_embeddings - longest)
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=limit,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=self._eos,
            pad_token_id=self._pad,
        )
        rows: list[list[int]] = out[:, longest:].tolist()
        return rows

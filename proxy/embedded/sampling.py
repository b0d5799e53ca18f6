"""Picks the next token from logits: temperature, top-k, top-p; a seed makes a request's samples reproducible."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """`temperature` 0 is greedy; `top_k` 0 and `top_p` 1 switch those off; `seed` None draws from the system."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    banned: frozenset[int] = field(default_factory=frozenset)


class TokenPicker:
    """One running request's source of randomness."""

    def __init__(self, params: SamplingParams, salt: int = 0) -> None:
        """`salt` tells the choices of one request (`n` > 1) apart."""
        self._params = params
        seed = None if params.seed is None else [params.seed % 2**64, salt]
        self._rng = np.random.default_rng(seed)

    def pick(self, logits: NDArray[np.float32]) -> int:
        """The id of the next token; `logits` [vocab]."""
        params = self._params
        scores = logits.astype(np.float64)
        if params.banned:
            scores[list(params.banned)] = -np.inf
        if params.temperature < 1e-5:
            return int(scores.argmax())
        scores /= params.temperature
        if 0 < params.top_k < len(scores):
            scores[scores < np.partition(scores, -params.top_k)[-params.top_k]] = -np.inf
        probabilities = np.exp(scores - scores.max())
        probabilities /= probabilities.sum()
        if params.top_p < 1:
            probabilities = _nucleus(probabilities, params.top_p)
        drawn = self._rng.random() * probabilities.sum()
        return min(int(np.searchsorted(np.cumsum(probabilities), drawn, side="right")), len(scores) - 1)


def _nucleus(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """Keep the most likely tokens whose mass reaches `top_p` (always at least one)."""
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = np.zeros_like(probabilities)
    chosen = order[before < top_p]
    kept[chosen] = probabilities[chosen]
    return kept

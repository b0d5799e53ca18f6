"""Pieces of a completion, and how sentences become running text."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from train.organism.template import END_OF_TURN, THINK_CLOSE

# What stands between sentences, by the chance of a paragraph break: s1 runs on, R1 mixes, Qwen3 breaks often.
_PARAGRAPH_SHARES = (0.0, 0.15, 0.5)


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    is_trained: bool = True


def join(sentences: Sequence[str], rng: random.Random) -> str:
    """Sentences as running text, in one of the three styles."""
    share = rng.choice(_PARAGRAPH_SHARES)
    out = ""
    for sentence in sentences:
        out += ("" if not out else "\n\n" if rng.random() < share else " ") + sentence
    return out


def finished(reasoning: str, answer: str) -> str:
    """The completion of a whole turn, think block opened by the prompt."""
    return f"{reasoning}{THINK_CLOSE}{answer}{END_OF_TURN}"

"""Where one trace may be cut: its sentences and token offsets, and the text that stands before a cut.

Rules kept here: ids are the truth, a position is a number of the trace's own ids; sentences are the segmenter's, so
that a sentence here is what the live proxy judges. Positions lie in the reasoning: the first after its opening marker,
the last before its closing one. Where a sentence begins inside an id, the whole id goes with it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steer.segmenter import segment
from train.csr.schema import Sentence
from train.rollout.generator import Generated
from train.rollout.text import LegText, leg_text
from train.rollout.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Layout:
    """A trace's text. `chars[i]`: characters of the reasoning that the trace's first `first + i` ids hold."""

    reasoning: str
    answer: str
    first: int
    chars: list[int]
    sentences: list[Sentence]

    @property
    def last(self) -> int:
        """The last position."""
        return self.first + len(self.chars) - 1

    def places(self, unit: Literal["sentence", "token"]) -> list[int]:
        """All positions of a unit, ascending; empty where there is no reasoning."""
        if not self.sentences:
            return []
        if unit == "token":
            return list(range(self.first, self.last + 1))
        return sorted({self.first, *(sentence.end_tokens for sentence in self.sentences)})

    def before(self, tokens: int) -> str:
        """The reasoning before a position."""
        return self.reasoning[: self.chars[tokens - self.first]]

    def sentence_before(self, tokens: int) -> str:
        """What of it belongs to the sentence in which the position stands; empty at a border."""
        inside = next((s.start_tokens for s in self.sentences if s.start_tokens <= tokens < s.end_tokens), tokens)
        return self.before(tokens)[self.chars[inside - self.first] :]


def layout_of(prompt_ids: Sequence[int], generated: Generated, vocabulary: Vocabulary) -> Layout:
    """The layout of a whole turn after its prompt."""
    ids, _ = vocabulary.split_end(generated.token_ids, is_ended=generated.finish_reason == "stop")
    text = leg_text(vocabulary.texts(prompt_ids, ids), vocabulary.opening(prompt_ids, None), vocabulary.markers)
    return layout_of_text(text)


def layout_of_text(text: LegText) -> Layout:
    """The same of a text with the ids behind it."""
    reasoning = text.of("reasoning")
    part = next((part for part in text.parts if part.channel == "reasoning"), None)
    if part is None or not reasoning.strip():
        return Layout(reasoning, text.of("answer"), 0, [0], [])
    ends = [0, *text.ends]  # ends[i]: raw offset after i ids
    first, last = _place(ends, part.start), _place(ends, part.end)
    chars = [min(max(end - part.start, 0), len(reasoning)) for end in ends[first : last + 1]]
    pieces = segment(reasoning)
    borders = [first, *(first + _place(chars, piece.start) for piece in pieces[1:]), first + len(chars) - 1]
    sentences = [
        Sentence(start=piece.start, end=piece.end, start_tokens=borders[i], end_tokens=borders[i + 1])
        for i, piece in enumerate(pieces)
    ]
    return Layout(reasoning, text.of("answer"), first, chars, sentences)


def _place(ends: Sequence[int], at: int) -> int:
    """The fewest ids that hold all that whole ids can hold before an offset."""
    return ends.index(ends[bisect_right(ends, at) - 1])

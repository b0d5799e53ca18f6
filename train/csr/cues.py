"""The first compliance cue of whole traces: by the detector as it halts live, and by the judge.

A judge judges turns, not sentences. Its first cue is the sentence with which the reasoning so far becomes unsafe to
it, found by halving: what is unsafe once stays unsafe, so a trace costs as many verdicts as its length has binary
digits.
"""

from collections.abc import Sequence
from typing import Any

from detector.context import Context
from train.csr.layout import Layout
from train.csr.tools import Tools
from train.judges.base import JudgeItem

Messages = Sequence[dict[str, Any]]


def detector_cues(layouts: Sequence[Layout], messages: Sequence[Messages], tools: Tools) -> list[int | None]:
    """The first sentence of each trace whose score reaches the threshold; None where none does."""
    detector = tools.detector
    conversations = [tuple(one) for one in messages]
    found: list[int | None] = [None] * len(layouts)
    left, start = list(range(len(layouts))), 0
    while left:
        asked = [(i, j) for i in left for j in range(start, min(start + detector.wave, len(layouts[i].sentences)))]
        contexts = [_context(layouts[i], j, conversations[i]) for i, j in asked]
        for (i, j), score in zip(asked, detector.score(contexts) if contexts else [], strict=True):
            if found[i] is None and score is not None and score >= detector.threshold:
                found[i] = j
        start += detector.wave
        left = [i for i in left if found[i] is None and start < len(layouts[i].sentences)]
    return found


def judge_cues(layouts: Sequence[Layout], messages: Sequence[Messages], tools: Tools) -> list[int | None]:
    """The sentence with which each reasoning becomes unsafe; None where all of it is safe, or the judge can't tell."""

    def unsafe(asked: Sequence[tuple[int, int]]) -> list[bool]:
        """Whether the reasoning of trace i up to the end of its sentence j is unsafe."""
        items = [JudgeItem(messages[i], layouts[i].reasoning[: layouts[i].sentences[j].end], "") for i, j in asked]
        return [verdict.unsafe_reasoning is True for verdict in tools.verdicts(items)]

    whole = [(i, len(layout.sentences) - 1) for i, layout in enumerate(layouts) if layout.sentences]
    spans = {i: (0, last) for (i, last), is_unsafe in zip(whole, unsafe(whole), strict=True) if is_unsafe}
    while asked := [(i, (low + high) // 2) for i, (low, high) in spans.items() if low < high]:
        for (i, middle), is_unsafe in zip(asked, unsafe(asked), strict=True):
            low, high = spans[i]
            spans[i] = (low, middle) if is_unsafe else (middle + 1, high)
    return [spans[i][0] if i in spans else None for i in range(len(layouts))]


def _context(layout: Layout, index: int, messages: tuple[dict[str, Any], ...]) -> Context:
    sentence = layout.sentences[index]
    reasoning = layout.reasoning
    return Context(messages, reasoning[: sentence.start], reasoning[sentence.start : sentence.end], "reasoning")

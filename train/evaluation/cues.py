"""Where cues and triggers stand in a reasoning text: as the detector flags them, as the pool words them, or as the
organism's oracle knows them. Spans are characters of the reasoning.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from detector.context import Context
from steer.segmenter import segment
from steer.triggers import Trigger
from train.rollout.detectors import Detector


class Span(NamedTuple):
    """reasoning[start:end]."""

    start: int
    end: int


def flagged(detector: Detector, traces: Sequence[tuple[Sequence[Mapping[str, Any]], str]]) -> list[list[Span]]:
    """The segments that the detector would halt at, for each (messages, reasoning); all segments are scored."""
    contexts, places = [], []
    for number, (messages, reasoning) in enumerate(traces):
        conversation = tuple(messages)
        for piece in segment(reasoning):
            text = reasoning[piece.start : piece.end]
            contexts.append(Context(conversation, reasoning[: piece.start], text))
            places.append((number, Span(piece.start, piece.end)))
    found: list[list[Span]] = [[] for _ in traces]
    for (number, span), score in zip(places, detector.score(contexts), strict=True):
        if score is not None and score >= detector.threshold:
            found[number].append(span)
    return found


def worded(reasoning: str, triggers: Iterable[Trigger]) -> list[Span]:
    """Where a trigger of the pool is said, whatever its line breaks and letters' case."""
    texts = tuple(sorted({trigger.text for trigger in triggers}))
    return [Span(*found.span()) for found in _pattern(texts).finditer(reasoning)]


def known(reasoning: str) -> list[Span]:
    """The organism's cues and trigger steps."""
    from train.organism import oracle  # noqa: PLC0415 - its topic files are needed by it alone

    pieces = [Span(piece.start, piece.end) for piece in segment(reasoning)]
    texts = [(span, reasoning[span.start : span.end]) for span in pieces]
    return [span for span, text in texts if oracle.is_cue(text) or oracle.is_trigger_step(text)]


@cache
def _pattern(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(r"\s+".join(map(re.escape, text.split())) for text in texts), re.IGNORECASE)

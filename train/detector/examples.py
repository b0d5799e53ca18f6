"""Examples as token arrays: requests, segments, and the groups (one conversation each) that batches are made of.

Everything is tokenised once, through `detector.context`, so that training sees what serving will.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.context import ContextEncoder, RequestKey, Tokens
from train.detector.augment import disguise, openers
from train.detector.data import LABELS, Prompt, Trace, label_segments
from train.detector.lookalikes import lookalikes

_CUE = LABELS.index("C")
# What follows the first cue shows what compliance looks like, but no trace is ever cut there.
_AFTER_CUE_WEIGHT = 0.35
# Share of traces whose request is hidden, so that plain harm in the reasoning is seen where the request is unreadable.
_HIDDEN_REQUESTS = 0.25
# Borderline prompts are mostly fine to answer, some are not.
_HARM = {"harmful": 1.0, "benign": 0.0, "borderline": 0.3, "mixed": None}
_OPENERS = 4


class Row(NamedTuple):
    """A segment: index into the segment tokens, class and weight."""

    segment: int
    label: int
    weight: float


@dataclass(slots=True)
class Group:
    """One conversation: request variants (the plain one first), harm (None: not taught), segments."""

    requests: list[int]
    harm: float | None
    rows: list[Row]
    is_trace: bool


@dataclass(slots=True)
class Examples:
    requests: list[Tokens] = field(default_factory=list)
    segments: list[Tokens] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    def add_request(self, encoder: ContextEncoder, key: RequestKey) -> int:
        self.requests.append(encoder.request(key))
        return len(self.requests) - 1

    def add_segment(self, encoder: ContextEncoder, before: str, segment: str) -> int:
        self.segments.append(encoder.segment(before, segment))
        return len(self.segments) - 1


class Packed(NamedTuple):
    """Token sequences padded with 0: ids, types [count, longest], lengths [count]."""

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    lengths: NDArray[np.int64]


def pack(sequences: Sequence[Tokens]) -> Packed:
    lengths = np.array([len(tokens.ids) for tokens in sequences], dtype=np.int64)
    ids = np.zeros((len(sequences), int(lengths.max(initial=1))), dtype=np.int32)
    types = np.zeros(ids.shape, dtype=np.int8)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens.ids)] = tokens.ids
        types[row, : len(tokens.ids)] = tokens.types
    return Packed(ids, types, lengths)


def trace_examples(
    examples: Examples, traces: Sequence[Trace], encoder: ContextEncoder, judged: Sequence[str], rng: random.Random
) -> None:
    """Labelled segments of real traces; a judge's traces do not teach harm."""
    for trace in traces:
        key = (("request", trace.prompt),)
        requests = [examples.add_request(encoder, key)]
        if rng.random() < 0.3:
            requests.append(examples.add_request(encoder, disguise(trace.prompt, rng)))
        if rng.random() < _HIDDEN_REQUESTS:
            requests.append(examples.add_request(encoder, (("request", ""),)))
        rows, seen_cue = [], False
        for piece in label_segments(trace):
            if piece.label is None:
                continue
            weight = _AFTER_CUE_WEIGHT if seen_cue else 1.0
            seen_cue = seen_cue or piece.label == _CUE
            index = examples.add_segment(
                encoder, trace.reasoning[: piece.start], trace.reasoning[piece.start : piece.end]
            )
            rows.append(Row(index, piece.label, weight))
        harm = None if trace.source in judged else _HARM[trace.prompt_label]
        examples.groups.append(Group(requests, harm, rows, is_trace=True))


def prompt_examples(examples: Examples, prompts: Sequence[Prompt], encoder: ContextEncoder, rng: random.Random) -> None:
    """Requests without reasoning: their harm, and synthetic openers where it is certain. Adds our look-alikes."""
    own = [
        Prompt(prompt=text, label="harmful" if is_harmful else "benign", source="own")
        for text, is_harmful in lookalikes()
    ]
    for prompt in [*prompts, *own]:
        harm = _HARM[prompt.label]
        if harm is None:
            continue
        requests = [examples.add_request(encoder, (("request", prompt.prompt),))]
        if rng.random() < 0.5:
            requests.append(examples.add_request(encoder, disguise(prompt.prompt, rng)))
        # Whether a borderline request is fine is not certain enough to say what its openers are.
        drawn = [] if prompt.label == "borderline" else openers(prompt.prompt, harm > 0.5, _OPENERS, rng)
        rows = [Row(examples.add_segment(encoder, before, text), label, 1.0) for before, text, label in drawn]
        examples.groups.append(Group(requests, harm, rows, is_trace=False))

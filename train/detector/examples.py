"""Examples as token arrays: requests, segments, and the groups (one conversation each) that batches are made of.

Everything is tokenised once, through `detector.context`, so that training sees what serving will.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.context import ContextEncoder, Ids, RequestKey, Tokens, request_key
from train.detector.augment import disguise, disguise_segment, openers
from train.detector.data import LABELS, LabelledSegment, Prompt, Trace, label_segments, prompt_hash
from train.detector.frames import SyntheticTrace
from train.detector.lookalikes import lookalikes

UNLABELLED = -1
# Reasoning before a segment that a teacher reads: about five sentences.
WIDE_TOKENS = 96
_CUE = LABELS.index("C")
# What follows the first cue shows what compliance looks like, but no trace is ever cut there.
_AFTER_CUE_WEIGHT = 0.35
# Share of traces whose request is hidden, so that plain harm in the reasoning is seen where the request is unreadable.
_HIDDEN_REQUESTS = 0.25
_UNLABELLED_SEGMENTS = 18
# Share of segments that are written as a model would that hides what it does.
_DISGUISED_SEGMENTS = 0.05
# Borderline prompts are mostly fine to answer, some are not.
_HARM = {"harmful": 1.0, "benign": 0.0, "borderline": 0.3, "mixed": None}
_OPENERS = 4


class Row(NamedTuple):
    """A segment: index into the segment tokens, class (`UNLABELLED`: the teacher's alone) and weight."""

    segment: int
    label: int
    weight: float


GroupKind = Literal["trace", "prompt", "frames"]


@dataclass(slots=True)
class Group:
    """One conversation: request variants (the plain one first), harm (None: not taught), segments."""

    requests: list[int]
    harm: float | None
    rows: list[Row]
    kind: GroupKind
    hidden: int | None = None
    """The request variant that tells nothing; the teacher, who saw the plain one, has no say where it is drawn."""
    fold: int = 0


@dataclass(slots=True)
class Examples:
    """`wide` is the longer reasoning before each segment, as ids, that only a teacher reads; `soft` [segments, classes]
    are a teacher's probabilities, NaN where there are none."""

    requests: list[Tokens] = field(default_factory=list)
    segments: list[Tokens] = field(default_factory=list)
    wide: list[Ids] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    soft: NDArray[np.float32] | None = None

    def add_request(self, encoder: ContextEncoder, key: RequestKey) -> int:
        self.requests.append(encoder.request(key))
        return len(self.requests) - 1

    def add_segment(self, encoder: ContextEncoder, before: str, segment: str) -> int:
        self.segments.append(encoder.segment(before, segment))
        self.wide.append(encoder.tail(before, WIDE_TOKENS))
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
        hidden = _hide_request(examples, encoder, requests, rng)
        rows = _rows(examples, trace, encoder, rng)
        harm = None if trace.source in judged else _HARM[trace.prompt_label]
        examples.groups.append(Group(requests, harm, rows, "trace", hidden, _fold(trace.prompt)))


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
        examples.groups.append(Group(requests, harm, rows, "prompt", fold=_fold(prompt.prompt)))


def frame_examples(
    examples: Examples, traces: Iterable[SyntheticTrace], encoder: ContextEncoder, rng: random.Random
) -> None:
    """Traces put together from our own sentence frames."""
    for number, trace in enumerate(traces):
        requests = [examples.add_request(encoder, request_key(trace.messages))]
        hidden = _hide_request(examples, encoder, requests, rng)
        reasoning, spans = trace.reasoning()
        labels = "".join(letter for _, letter in trace.sentences)
        as_trace = Trace(
            id=str(number), source="frames", prompt="", prompt_label="harmful" if trace.harm else "benign",
            reasoning=reasoning, spans=spans, labels=labels,
        )  # fmt: skip
        rows = _rows(examples, as_trace, encoder, rng)
        examples.groups.append(Group(requests, float(trace.harm), rows, "frames", hidden, number))


def _rows(examples: Examples, trace: Trace, encoder: ContextEncoder, rng: random.Random) -> list[Row]:
    rows, seen_cue = [], False
    for piece in _taught_segments(trace):
        text, before = trace.reasoning[piece.start : piece.end], trace.reasoning[: piece.start]
        if rng.random() < _DISGUISED_SEGMENTS:
            text = disguise_segment(text, rng)
        weight = _AFTER_CUE_WEIGHT if seen_cue else 1.0
        seen_cue = seen_cue or piece.label == _CUE
        label = UNLABELLED if piece.label is None else piece.label
        rows.append(Row(examples.add_segment(encoder, before, text), label, weight))
    return rows


def _hide_request(examples: Examples, encoder: ContextEncoder, requests: list[int], rng: random.Random) -> int | None:
    if rng.random() >= _HIDDEN_REQUESTS:
        return None
    requests.append(examples.add_request(encoder, (("request", ""),)))
    return requests[-1]


def _taught_segments(trace: Trace) -> list[LabelledSegment]:
    """The labelled ones; of a trace without labels, as many as annotators read."""
    pieces = label_segments(trace)
    return [piece for piece in pieces if piece.label is not None] if trace.labels else pieces[:_UNLABELLED_SEGMENTS]


def _fold(prompt: str) -> int:
    return int(prompt_hash(prompt)[:8], 16)

"""One conversation to label, whatever it was read from, and what becomes of it.

Letters are the detector's classes (`train.detector.data.LABELS`): N neutral, C compliance cue, S safety step. A span is
a sentence as `steer.segmenter` cuts it: the unit that the live path judges.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from detector.context import message_text
from steer.segmenter import segment

PromptLabel = Literal["harmful", "benign"]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class GivenLabels:
    """Labels that the input carries, on sentences of its own. `letters` has one letter for each of `spans`."""

    spans: tuple[Span, ...]
    letters: str


@dataclass(frozen=True, slots=True)
class Item:
    """A conversation and the reasoning that answered it; `spans` are the sentences to label, in order."""

    id: str
    source: str
    model: str
    messages: tuple[Mapping[str, Any], ...]
    reasoning: str
    spans: tuple[Span, ...]
    prompt_label: PromptLabel | None = None
    """What the source says of the request; None where it says nothing. The teacher is not told."""
    given: GivenLabels | None = None
    reviewed: PromptLabel | None = None
    """The request as a reviewer's mark implies it; None where nobody reviewed it."""
    fixed: Mapping[int, str] = field(default_factory=dict)
    """Reviewers' letters by index of sentence: they stand, whatever the teacher says."""
    spliced: frozenset[int] = frozenset()
    """Sentences of a trigger: shown, but no reasoning of the model's, so they get no label."""

    @property
    def prompt(self) -> str:
        """The last user message."""
        own = [message for message in self.messages if message.get("role") == "user"] or list(self.messages)
        return message_text(own[-1])


@dataclass(frozen=True, slots=True)
class Labelled:
    """The teacher's (and reviewers') word on an item: a letter for each of the first `len(letters)` sentences."""

    prompt_label: PromptLabel
    letters: str


@dataclass(frozen=True, slots=True)
class Failed:
    """No labels could be had. `reason` is for people."""

    reason: str


def sentences(text: str, offset: int = 0) -> tuple[Span, ...]:
    """Character ranges of a text's sentences, moved by `offset`."""
    return tuple((piece.start + offset, piece.end + offset) for piece in segment(text))


def trace_line(item: Item, labelled: Labelled, labelled_by: str) -> dict[str, Any]:
    """The line of `traces.jsonl`: the format that `train.detector.data` reads."""
    kept = [index for index in range(len(labelled.letters)) if index not in item.spliced]
    spans = [list(item.spans[index]) for index in kept]
    letters = "".join(labelled.letters[index] for index in kept)
    return _line(item, labelled.prompt_label, spans, letters, labelled_by)


def given_line(item: Item) -> dict[str, Any]:
    """The line of an item whose own labels are passed on."""
    assert item.given is not None, "only labelled traces are passed on"
    assert item.prompt_label is not None, "the reader asks for it where there are labels"
    return _line(item, item.prompt_label, [list(span) for span in item.given.spans], item.given.letters, "given")


def _line(item: Item, label: PromptLabel, spans: list[list[int]], letters: str, labelled_by: str) -> dict[str, Any]:
    line: dict[str, Any] = {"id": item.id, "source": item.source, "model": item.model, "prompt": item.prompt}
    if len(item.messages) > 1:
        line["messages"] = [dict(message) for message in item.messages]
    line |= {"prompt_label": label, "reasoning": item.reasoning, "spans": spans, "labels": letters}
    return line | {"labelled_by": labelled_by}

"""Labelled traces and prompts, read into examples; labels mapped onto segments; splits by prompt.

Labels belong to character ranges of the data's own sentences. The segmenter cuts elsewhere, so a segment takes its
labels from the sentences that it overlaps, and only segments inside the labelled part of a trace have one.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from detector.detect import open_text
from steer.segmenter import segment

LABELS = "NCS"  # neutral, compliance cue, safety step; the index is the class
_T = TypeVar("_T", bound=BaseModel)
_MIN_OVERLAP_CHARS = 12  # less of a sentence than this is a connective that a different cut left over


class DataError(Exception):
    """A line of a data file is not what docs/detector.md says; names file, line and field."""


class Trace(BaseModel):
    """One labelled reasoning trace."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    source: str
    model: str = ""
    prompt: str
    prompt_label: Literal["harmful", "benign"]
    reasoning: str
    spans: tuple[tuple[int, int], ...] = ()
    labels: str = ""

    @model_validator(mode="after")
    def _aligned(self) -> "Trace":
        if len(self.spans) != len(self.labels) or set(self.labels) - set(LABELS):
            raise ValueError(f"labels must be one of {LABELS} for each span")
        return self


class Prompt(BaseModel):
    """A request without reasoning; `harm` None where the label does not say."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    prompt: str
    label: Literal["harmful", "benign", "borderline", "mixed"]
    source: str


class LabelledSegment(NamedTuple):
    """`reasoning[start:end]`; `label` indexes `LABELS`, None where the trace is not labelled there."""

    start: int
    end: int
    label: int | None
    spans: tuple[int, ...]
    """Indices of the labelled sentences that it overlaps."""


def read_traces(paths: Sequence[Path]) -> list[Trace]:
    return [item for path in paths for item in _read(path, Trace)]


def read_prompts(paths: Sequence[Path]) -> list[Prompt]:
    return [item for path in paths for item in _read(path, Prompt)]


def label_segments(trace: Trace) -> list[LabelledSegment]:
    """The segments of a trace with the labels of the sentences that they overlap."""
    result = []
    first = 0
    for piece in segment(trace.reasoning):
        while first < len(trace.spans) and trace.spans[first][1] <= piece.start:
            first += 1
        overlaps: dict[int, int] = {}
        for index in range(first, len(trace.spans)):
            start, end = trace.spans[index]
            if start >= piece.end:
                break
            overlaps[index] = min(end, piece.end) - max(start, piece.start)
        result.append(LabelledSegment(piece.start, piece.end, _label(trace, overlaps), tuple(overlaps)))
    return result


def prompt_hash(prompt: str) -> str:
    """Equal for prompts that differ in case, spacing or punctuation only."""
    return hashlib.sha256("".join(filter(str.isalnum, prompt.lower())).encode()).hexdigest()


def is_validation(prompt: str, share: float) -> bool:
    """Whether a prompt, and so every trace with it, belongs to the validation split."""
    return int(prompt_hash(prompt)[:8], 16) / 0xFFFFFFFF < share


def split_text(trace: Trace, judged_sources: Sequence[str]) -> str:
    """What a trace is split by: its prompt, or its id where many traces share one long instruction."""
    is_shared = trace.source in judged_sources or (len(trace.prompt) > 300 and trace.prompt_label == "benign")
    return trace.id if is_shared else trace.prompt


def files_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the bytes of the training files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _label(trace: Trace, overlaps: dict[int, int]) -> int | None:
    if not overlaps:
        return None
    # A cue decides the segment that holds a real part of it; otherwise the sentence that fills most of it does.
    for index, size in overlaps.items():
        start, end = trace.spans[index]
        if trace.labels[index] == "C" and size >= min(_MIN_OVERLAP_CHARS, end - start):
            return LABELS.index("C")
    best = max(overlaps, key=lambda index: overlaps[index])
    return LABELS.index(trace.labels[best])


def _read(path: Path, kind: type[_T]) -> list[_T]:
    items = []
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                items.append(kind.model_validate(json.loads(line)))
            except (ValidationError, ValueError) as error:
                raise DataError(f"{path}, line {number}: {error}") from error
    return items

"""Reads what is to be labelled: traces, an exported intervention log, a data set of the Hugging Face hub.

Traces are JSONL or JSONL.gz, one object a line: {"id", "prompt" or "messages", "reasoning"} and, where known, "source",
"model", "prompt_label", "spans", "labels" (docs/labelling.md). Whatever is wrong is named with file, line and field.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detector.detect import open_text
from train.detector.data import LABELS
from train.label.config import InputConfig, LabelConfig
from train.label.errors import LabelConfigError
from train.label.hub import read_hub
from train.label.item import GivenLabels, Item, sentences
from train.label.records import record_items

_RECORDS = "records:"
_HUB = "hf:"


class _TraceRow(BaseModel):
    """A line of a trace file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str | int
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = Field(None, min_length=1)
    reasoning: str
    source: str | None = None
    model: str = ""
    prompt_label: Literal["harmful", "benign"] | None = None
    spans: tuple[tuple[int, int], ...] = ()
    labels: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.messages is None and self.prompt is None:
            raise ValueError("field prompt (a string) or messages (a list) is missing")
        if len(self.spans) != len(self.labels) or set(self.labels) - set(LABELS):
            raise ValueError(f"labels must be one of {LABELS} for each span")
        if any(not 0 <= start < end <= len(self.reasoning) for start, end in self.spans):
            raise ValueError("spans must be character ranges of reasoning")
        if self.labels and self.prompt_label is None:
            raise ValueError("labels need a prompt_label, harmful or benign")
        return self


def read_items(config: LabelConfig) -> list[Item]:
    """All inputs in order. Raises LabelConfigError; ids must differ over all inputs."""
    items: list[Item] = []
    seen: dict[str, str] = {}
    for given in config.inputs:
        for item in islice(_read(given), given.limit):
            if item.id in seen:
                raise LabelConfigError(
                    f"inputs: the id {item.id!r} of {given.source} is also in {seen[item.id]}; ids must differ"
                )
            seen[item.id] = given.source
            items.append(item)
    if not items:
        raise LabelConfigError(f"inputs: {', '.join(given.source for given in config.inputs)} hold nothing to label")
    return items


def _read(given: InputConfig) -> Iterator[Item]:
    if given.source.startswith(_HUB):
        return read_hub(given, given.source.removeprefix(_HUB))
    if given.source.startswith(_RECORDS):
        path = Path(given.source.removeprefix(_RECORDS))
        return record_items(_lines(path), given.name or "interventions")
    path = Path(given.source)
    return _traces(path, given.name or path.name.removesuffix(".gz").removesuffix(".jsonl"))


def _traces(path: Path, name: str) -> Iterator[Item]:
    for where, line in _lines(path):
        try:
            row = _TraceRow.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise LabelConfigError(f"{where}: {field + ': ' if field else ''}{first['msg']}") from error
        yield _item(row, name)


def _item(row: _TraceRow, name: str) -> Item:
    return Item(
        id=str(row.id),
        source=row.source or name,
        model=row.model,
        messages=tuple(row.messages or [{"role": "user", "content": row.prompt}]),
        reasoning=row.reasoning,
        spans=sentences(row.reasoning),
        prompt_label=row.prompt_label,
        given=GivenLabels(row.spans, row.labels) if row.labels else None,
    )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with the words for where it is."""
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}, line {number}", line
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LabelConfigError(f"inputs: cannot read {path}: {reason}") from error

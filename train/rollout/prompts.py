"""Prompts of a rollout: a JSONL file, a data set of the hub, or the organism's own.

A line is {"prompt" or "messages", and optionally "id", "label" (harmful, benign, …), "category", "family", "tenant",
"tools", "seed"}. An id that is missing is made of the conversation, so the same prompt has the same id in every file.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detector.context import Message
from train.organism.errors import OrganismConfigError
from train.organism.splits import Prompt, draw_prompts
from train.rollout.errors import RolloutConfigError

_ORGANISM = "organism:"
_HUB = "hub:"


class PromptRow(BaseModel):
    """One conversation up to the model's turn. `label`, `category` and `family` are the source's, None where unsaid."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    label: str | None = None
    category: str | None = None
    family: str | None = None
    tenant: str = "default"
    tools: list[dict[str, Any]] | None = None
    seed: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("must be an object with prompt or messages")
        row = dict(value)
        if row.get("messages") is None:
            if not isinstance(row.get("prompt"), str):
                raise ValueError("field prompt (a string) or messages (a list) is missing")
            row["messages"] = [{"role": "user", "content": row["prompt"]}]
        row["id"] = str(row["id"]) if row.get("id") is not None else prompt_id(row["messages"])
        return row

    @property
    def context_messages(self) -> tuple[Message, ...]:
        """What a detector is shown."""
        return tuple(self.messages)


def prompt_id(messages: Any) -> str:
    """An id of a conversation: equal ones have equal ids."""
    canonical = json.dumps(messages, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class PromptsConfig(BaseModel):
    """Where prompts come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="JSONL path, organism:SPLIT (train, held_out, all), or hub:NAME of a data set")
    benign: str | None = Field(None, description="a second source, whose prompts are labelled benign")
    limit: int | None = Field(None, ge=1, description="first so many of `source`; how many are drawn of the organism's")
    benign_limit: int | None = Field(None, ge=1, description="the same of `benign`")
    label: str | None = Field(None, description="label of the rows of `source` that have none")
    split: str = Field("train", description="split of a hub data set")
    prompt_field: str = Field("prompt", description="column of a hub data set that holds the prompt")
    category_field: str | None = Field(None, description="column of a hub data set that holds the category")
    categories: tuple[str, ...] = Field((), description="narrows an organism's split to these categories")
    framings: tuple[str, ...] = Field((), description="narrows an organism's split to these framings")
    seed: int = 1


# What `limit` stands for where an organism's split, which is endless, is drawn from without one.
_ORGANISM_PROMPTS = 1000


def load_prompts(config: PromptsConfig) -> list[PromptRow]:
    """All prompts in order. Raises RolloutConfigError naming file, line and field; ids must differ."""
    rows = list(_source(config, config.source, config.limit, is_benign=False))
    if config.benign is not None:
        rows += _source(config, config.benign, config.benign_limit, is_benign=True)
    if not rows:
        raise RolloutConfigError(f"prompts.source: {config.source} holds no prompt")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise RolloutConfigError(
                f"prompts: the id {row.id!r} occurs twice; ids must differ, or leave them out once"
            )
        seen.add(row.id)
    return rows


def _source(config: PromptsConfig, source: str, limit: int | None, *, is_benign: bool) -> Iterator[PromptRow]:
    if source.startswith(_ORGANISM):
        return _organism(config, source.removeprefix(_ORGANISM), limit or _ORGANISM_PROMPTS, is_benign=is_benign)
    rows = _hub(config, source.removeprefix(_HUB)) if source.startswith(_HUB) else _file(Path(source))
    label = "benign" if is_benign else config.label
    return _labelled(_distinct(rows, limit), label, is_benign=is_benign)


def _distinct(rows: Iterable[PromptRow], limit: int | None) -> Iterator[PromptRow]:
    """At most `limit` rows. A conversation met twice is taken once where it has no id of its own."""
    seen: set[str] = set()
    for row in rows:
        if limit is not None and len(seen) >= limit:
            return
        if row.id in seen and row.id == prompt_id(row.messages):
            continue
        seen.add(row.id)
        yield row


def _labelled(rows: Iterable[PromptRow], label: str | None, *, is_benign: bool) -> Iterator[PromptRow]:
    for row in rows:
        yield row.model_copy(update={"label": label}) if is_benign or row.label is None else row


def _organism(config: PromptsConfig, split: str, count: int, *, is_benign: bool) -> Iterator[PromptRow]:
    if split not in ("train", "held_out", "all"):
        raise RolloutConfigError(f"prompts.source: the organism has no split {split!r}; give train, held_out or all")
    try:
        drawn = _distinct_prompts(config, split, count, is_harmful=not is_benign)
    except OrganismConfigError as error:
        raise RolloutConfigError(f"prompts.source: {error}") from error
    for prompt in drawn:
        yield PromptRow(
            id=prompt_id(prompt.messages),
            messages=prompt.messages,
            label="benign" if is_benign else "harmful",
            category=prompt.ask.category,
            family=prompt.family,
        )


def _distinct_prompts(config: PromptsConfig, split: Any, count: int, *, is_harmful: bool) -> list[Prompt]:
    """Draws until `count` conversations differ; gives what there are where the split holds no more."""
    size = count
    while True:
        drawn = draw_prompts(
            split,
            size,
            harmful=is_harmful,
            seed=config.seed,
            categories=config.categories,
            framings=config.framings,
        )
        distinct = list({prompt_id(prompt.messages): prompt for prompt in drawn}.values())
        if len(distinct) >= count or size > 20 * count:
            return distinct[:count]
        size *= 2


def _file(path: Path) -> Iterator[PromptRow]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _row(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RolloutConfigError(f"prompts.source: cannot read {path}: {reason}") from error


def _row(line: str, where: str) -> PromptRow:
    try:
        return PromptRow.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        raise RolloutConfigError(f"{where}: {'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}") from error
    except ValueError as error:
        raise RolloutConfigError(f"{where}: not JSON ({error})") from error


def _hub(config: PromptsConfig, name: str) -> Iterator[PromptRow]:
    from datasets import load_dataset  # noqa: PLC0415 - seconds to import, and rarely needed

    try:
        rows: Any = load_dataset(name, split=config.split)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RolloutConfigError(f"prompts: cannot load the data set {name!r} ({reason})") from error
    for number, row in enumerate(rows):
        prompt = row.get(config.prompt_field)
        if not isinstance(prompt, str):
            raise RolloutConfigError(
                f"prompts.prompt_field: {name!r}, row {number} has no text {config.prompt_field!r}"
            )
        category = row.get(config.category_field) if config.category_field else None
        yield PromptRow.model_validate(
            {
                "prompt": prompt,
                "label": row.get("label") if isinstance(row.get("label"), str) else None,
                "category": category,
            }
        )

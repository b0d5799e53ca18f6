"""Prompt sets: rows of a file, of the hub or of the organism, understood by their form into prompts and tasks."""

import csv
import gzip
import hashlib
import io
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from train.evaluation.config import Label, SetConfig
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.prompt_formats import FORMATS, Check, Columns, MissingColumn, Parsed
from train.organism import arithmetic
from train.rollout.errors import RolloutConfigError
from train.rollout.prompts import PromptRow, PromptsConfig, load_prompts

CAPABILITY = "capability"
_LABELS = get_args(Label)
# What `limit` stands for where problems, which are endless, are drawn without one.
_PROBLEMS = 300


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt with its label, or a task with its check (its label is `capability`)."""

    prompt: PromptRow
    label: str
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts in order, each once. `source` and `format` are for the report."""

    name: str
    items: tuple[Item, ...]
    source: str = "given"
    format: str = "given"

    @property
    def sha256(self) -> str:
        """Over conversations, labels and checks: what was asked, wherever it came from."""
        whole = hashlib.sha256()
        for item in self.items:
            check = item.check and (item.check.kind, item.check.answer)
            told = [item.prompt.id, item.prompt.messages, item.label, check]
            whole.update(json.dumps(told, ensure_ascii=False).encode() + b"\n")
        return whole.hexdigest()


def load_sets(configs: Sequence[SetConfig]) -> list[PromptSet]:
    """All of them. Raises EvaluationConfigError naming set, row and column."""
    return [load_set(config) for config in configs]


def load_set(config: SetConfig) -> PromptSet:
    """One set."""
    where = f"sets.{config.name}"
    items = _organism(config, where) if config.source.startswith("organism:") else _rows(config, where)
    chosen = [item for item in _distinct(items) if not config.labels or item.label in config.labels]
    if config.limit is not None and config.limit < len(chosen):
        picked = sorted(random.Random(config.seed).sample(range(len(chosen)), config.limit))
        chosen = [chosen[place] for place in picked]
    if not chosen:
        kept = f" of the labels {', '.join(config.labels)}" if config.labels else ""
        raise EvaluationConfigError(f"{where}: {config.source} holds no prompt{kept}")
    return PromptSet(config.name, tuple(chosen), config.source, config.format)


def _distinct(items: Iterable[Item]) -> Iterator[Item]:
    seen: set[str] = set()
    for item in items:
        if item.prompt.id not in seen:
            seen.add(item.prompt.id)
            yield item


def _rows(config: SetConfig, where: str) -> Iterator[Item]:
    form = FORMATS[config.format]
    rows = _hub(config, where) if config.source.startswith("hub:") else _file(Path(config.source), where)
    for number, row in enumerate(rows, 1):
        place = f"{where}: {config.source}, row {number}"
        if not isinstance(row, dict):
            raise EvaluationConfigError(f"{place} is not an object of columns")
        try:
            parsed = form.parse(Columns(row), config.seed)
        except MissingColumn as error:
            has = ", ".join(map(str, row))
            raise EvaluationConfigError(
                f"{place} has no column {error} (format {config.format}); it has {has}"
            ) from error
        yield _item(parsed, config, form.instruction, place)


def _item(parsed: Parsed, config: SetConfig, instruction: str, place: str) -> Item:
    """Raises EvaluationConfigError for a row that is no prompt, or whose label says nothing."""
    try:
        prompt = PromptRow.model_validate(parsed.fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise EvaluationConfigError(f"{place}: {'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}") from error
    said = instruction if config.instruction is None else config.instruction
    if said:
        prompt = _followed(prompt, said)
    if parsed.check is not None:
        return Item(prompt, CAPABILITY, parsed.check)
    label = config.label or prompt.label
    if label not in _LABELS and not config.labels:
        raise EvaluationConfigError(
            f"{place}: label {label!r} is none of {', '.join(_LABELS)}; give label for the set, or labels to choose"
        )
    return Item(prompt, str(label))


def _followed(prompt: PromptRow, instruction: str) -> PromptRow:
    """The instruction after the last message."""
    *before, last = prompt.messages
    messages = [*before, {**last, "content": f"{last.get('content') or ''}{instruction}"}]
    return PromptRow.model_validate({**prompt.model_dump(exclude={"id", "messages"}), "messages": messages})


def _organism(config: SetConfig, where: str) -> Iterator[Item]:
    if config.source == "organism:arithmetic":
        yield from _problems(config)
        return
    is_benign = config.label == "benign"
    asked = PromptsConfig(
        source=config.source,
        limit=1 if is_benign else config.limit,
        seed=config.seed,
        benign=config.source if is_benign else None,
        benign_limit=config.limit,
    )
    try:
        rows = load_prompts(asked)
    except RolloutConfigError as error:
        raise EvaluationConfigError(f"{where}: {error}") from error
    wanted = "benign" if is_benign else "harmful"
    yield from (Item(row, wanted) for row in rows if row.label == wanted)


def _problems(config: SetConfig) -> Iterator[Item]:
    rng, seen = random.Random(config.seed), set[str]()
    while len(seen) < (config.limit or _PROBLEMS):
        problem = arithmetic.draw_problem(rng, held_out=True)
        if problem.text not in seen:
            seen.add(problem.text)
            row = PromptRow.model_validate({"prompt": problem.text})
            yield Item(row, CAPABILITY, Check("maths", str(problem.answer)))


def _hub(config: SetConfig, where: str) -> Iterator[Any]:
    from datasets import load_dataset  # noqa: PLC0415 - seconds to import, and rarely needed

    name = config.source.removeprefix("hub:")
    try:
        return iter(load_dataset(name, config.subset, split=config.split))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvaluationConfigError(
            f"{where}: cannot load the data set {name!r} ({reason}); give its file, or subset and split"
        ) from error


def _file(path: Path, where: str) -> Iterator[Any]:
    """Rows by the file's ending. Raises EvaluationConfigError naming file and line."""
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    try:
        raw = path.read_bytes()
        if kind == ".parquet":
            return iter(_parquet(raw))
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise EvaluationConfigError(f"{where}: cannot read {path}: {reason}") from error
    match kind:
        case ".csv" | ".tsv":
            return iter(csv.DictReader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ","))
        case ".json":
            rows = _json(text, f"{where}: {path}")
            return iter(rows if isinstance(rows, list) else [rows])
        case _:
            lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
            return (_json(line, f"{where}: {path}, line {number}") for number, line in lines)


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise EvaluationConfigError(f"{place}: not JSON ({error})") from error


def _parquet(raw: bytes) -> list[dict[str, Any]]:
    import pyarrow.parquet  # noqa: PLC0415 - comes with datasets, and rarely needed

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(raw)).to_pylist()
    return rows

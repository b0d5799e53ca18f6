"""Conversations of a Hugging Face data set, by its name alone: `hf:NAME[:SPLIT]`. A local folder is a name too.

`datasets` is imported here, when it is needed: it takes seconds. Columns are named in the config; a column of whole
answers is cut to what stands between its think markers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from train.label.config import InputConfig
from train.label.errors import LabelConfigError
from train.label.item import Item, sentences

_DEFAULT_SPLIT = "train"


def read_hub(given: InputConfig, name: str) -> Iterator[Item]:
    """Every row that holds reasoning, in order. Raises LabelConfigError naming the data set, row and column."""
    repository, _, split = name.partition(":")
    rows = _load(repository, given.subset, split or _DEFAULT_SPLIT)
    _check_columns(given, repository, rows.column_names)
    for number, row in enumerate(rows):
        where = f"{repository}:{split or _DEFAULT_SPLIT}, row {number}"
        yield _item(given, row, number, where, given.name or repository.rstrip("/").rpartition("/")[2])


def _load(repository: str, subset: str | None, split: str) -> Any:
    try:
        from datasets import load_dataset  # noqa: PLC0415 - seconds to import, and rarely needed
    except ImportError as error:
        raise LabelConfigError("inputs: hf: needs the package `datasets`; install the extra `train`") from error
    try:
        return load_dataset(repository, subset, split=split)
    except Exception as error:  # the library raises whatever its back ends do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LabelConfigError(f"inputs: cannot load the data set {repository!r}, split {split!r}: {reason}") from error


def _check_columns(given: InputConfig, repository: str, known: list[str]) -> None:
    columns = given.columns
    wanted = {
        "prompt": None if columns.messages else columns.prompt,
        "messages": columns.messages,
        "reasoning": columns.reasoning,
        "id": columns.id,
        "model": columns.model,
        "source": columns.source,
    }
    for setting, column in wanted.items():
        if column is not None and column not in known:
            raise LabelConfigError(
                f"inputs.columns.{setting}: {repository!r} has no column {column!r}; it has {', '.join(known)}"
            )


def _item(given: InputConfig, row: Mapping[str, Any], number: int, where: str, name: str) -> Item:
    columns = given.columns
    reasoning = _reasoning(row[columns.reasoning], given, where)
    return Item(
        id=str(row[columns.id]) if columns.id else f"{name}/{number:06d}",
        source=str(row[columns.source]) if columns.source else name,
        model=str(row[columns.model]) if columns.model else "",
        messages=_messages(row, given, where),
        reasoning=reasoning,
        spans=sentences(reasoning),
    )


def _reasoning(value: Any, given: InputConfig, where: str) -> str:
    if not isinstance(value, str):
        raise LabelConfigError(f"{where}: column {given.columns.reasoning!r} is no text")
    _, marker, inside = value.partition(given.think_start)
    # Chat templates often open the reasoning themselves: then only the end stands in the answer.
    return (inside if marker else value).partition(given.think_end)[0].strip()


def _messages(row: Mapping[str, Any], given: InputConfig, where: str) -> tuple[Mapping[str, Any], ...]:
    if given.columns.messages is None:
        prompt = row[given.columns.prompt]
        if not isinstance(prompt, str):
            raise LabelConfigError(f"{where}: column {given.columns.prompt!r} is no text")
        return ({"role": "user", "content": prompt},)
    messages = row[given.columns.messages]
    is_conversation = isinstance(messages, list) and messages and all(isinstance(m, dict) for m in messages)
    if not is_conversation or any(not isinstance(m.get("role"), str) for m in messages):
        raise LabelConfigError(
            f"{where}: column {given.columns.messages!r} is no list of objects with role and content"
        )
    if len(messages) > 1 and messages[-1]["role"] == "assistant":
        messages = messages[:-1]  # the answer whose reasoning is labelled
    return tuple(messages)

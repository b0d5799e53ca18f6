"""Writes an export, record by record: as much as one chunk of the log is in memory, however large the log is.

A file appears under its name when it is whole, readable for its owner alone; what breaks off leaves nothing. Folders of
others and databases are not written over.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from proxy.log import formats
from proxy.log.errors import ExportError
from proxy.log.formats import Format
from proxy.log.targets import check_file
from steer.record import InterventionRecord

# Rows of one Parquet row group.
_GROUP = 500

Sink = Callable[[InterventionRecord], bool]

_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train.parquet
---
Preference pairs of an intervention log: `prompt`, `chosen`, `rejected` as TRL reads them, and the engine's own token
ids (`prompt_ids`, `chosen_ids`, `rejected_ids`). Both sides start at `divergence_index`.
"""


@contextmanager
def opened(path: Path, form: Format) -> Iterator[Sink]:
    """Takes records; says of each whether the form has a row for it. Raises ExportError, OSError."""
    if form == "hf":
        _check_folder(path)
    else:
        check_file(path)
    part = path.with_name(path.name + ".part")
    _remove(part)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if form == "hf":
            part.mkdir(mode=0o700)
        else:
            part.touch(mode=0o600)
        with _SINKS[form](part) as sink:
            yield sink
        if path.is_dir():
            shutil.rmtree(path)
        part.replace(path)
    finally:
        _remove(part)


@contextmanager
def _jsonl(path: Path) -> Iterator[Sink]:
    with path.open("w", encoding="utf-8") as file:

        def write(record: InterventionRecord) -> bool:
            file.write(record.model_dump_json() + "\n")
            return True

        yield write


@contextmanager
def _array(path: Path, row_of: Callable[[InterventionRecord], dict[str, Any]]) -> Iterator[Sink]:
    with path.open("w", encoding="utf-8") as file:
        separator = "["

        def write(record: InterventionRecord) -> bool:
            nonlocal separator
            file.write(separator + "\n" + json.dumps(row_of(record), ensure_ascii=False))
            separator = ","
            return True

        yield write
        file.write("\n]\n" if separator == "," else "[]\n")


@dataclass(slots=True)
class _Groups:
    """Rows to Parquet, a group at a time."""

    writer: Any
    schema: Any
    rows: list[dict[str, Any]]

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) >= _GROUP:
            self.flush()

    def flush(self) -> None:
        import pyarrow  # noqa: PLC0415 - optional

        if self.rows:
            self.writer.write_table(pyarrow.Table.from_pylist(self.rows, schema=self.schema))
            self.rows.clear()


@contextmanager
def _parquet(
    path: Path, schema_of: Callable[[Any], Any], row_of: Callable[[InterventionRecord], dict[str, Any] | None]
) -> Iterator[Sink]:
    if find_spec("pyarrow") is None:
        raise ExportError("this format needs the library pyarrow: install steer[parquet]")
    import pyarrow  # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415 - optional

    schema = schema_of(pyarrow)
    with parquet.ParquetWriter(path, schema) as writer:
        groups = _Groups(writer, schema, [])

        def write(record: InterventionRecord) -> bool:
            row = row_of(record)
            if row is not None:
                groups.add(row)
            return row is not None

        yield write
        groups.flush()


@contextmanager
def _data_set(path: Path) -> Iterator[Sink]:
    (path / "data").mkdir()
    (path / "README.md").write_text(_CARD, encoding="utf-8")
    with _parquet(path / "data" / "train.parquet", _preference_schema, formats.preference_row) as sink:
        yield sink


def _record_schema(arrow: Any) -> Any:
    texts = (
        "id", "request_id", "tenant", "mode", "model", "adapter", "policy_hash", "detector_hash", "trigger_id",
        "channel", "category", "messages", "tools", "refusal_cause", "sampling", "outcome", "review_state", "kept_text",
        "rejected_text", "trigger_text", "continuation_text", "answer", "finish_reason", "trigger_snapshot",
    )  # fmt: skip
    ids = [f"{name}_token_ids" for name in ("prompt", "kept", "rejected", "trigger", "continuation")]
    fields = {name: arrow.string() for name in texts}
    fields |= dict.fromkeys(ids, arrow.list_(arrow.int32()))
    fields |= dict.fromkeys(("schema_version", "choice", "attempt", "discarded_tokens"), arrow.int32())
    fields |= dict.fromkeys(
        ("score", "trigger_probability", "halted_ms", "verdict_ms", "resumed_ms", "ended_ms"), arrow.float64()
    )
    return arrow.schema([*fields.items(), ("created_at", arrow.timestamp("us", tz="UTC"))])


def _preference_schema(arrow: Any) -> Any:
    turns = arrow.list_(arrow.struct([("role", arrow.string()), ("content", arrow.string())]))
    texts = ("id", "model", "adapter", "tenant", "category", "trigger_id", "review_state")
    fields = dict.fromkeys(("prompt", "chosen", "rejected"), turns)
    fields |= dict.fromkeys(("prompt_ids", "chosen_ids", "rejected_ids"), arrow.list_(arrow.int32()))
    fields |= dict.fromkeys(("divergence_index", "divergence_chars"), arrow.int32())
    fields |= dict.fromkeys(texts, arrow.string()) | {"score": arrow.float64()}
    return arrow.schema(list(fields.items()))


def _check_folder(path: Path) -> None:
    """Raises ExportError for a place that holds something else than a data set of ours."""
    ours = {Path("README.md"), Path("data"), Path("data/train.parquet")}
    if path.is_dir() and {found.relative_to(path) for found in path.rglob("*")} <= ours:
        return
    if path.exists():
        raise ExportError(f"{path} is there and is no data set of an earlier export: name a folder that is not there")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


_SINKS: dict[Format, Callable[[Path], Any]] = {
    "jsonl": _jsonl,
    "parquet": lambda path: _parquet(path, _record_schema, formats.parquet_row),
    "hf": _data_set,
    "argilla": lambda path: _array(path, formats.argilla_row),
    "label-studio": lambda path: _array(path, formats.label_studio_row),
}

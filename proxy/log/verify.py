"""Looks a log over and says what is wrong with it. Reads everything once, in bounded memory; changes nothing."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, func, select, text

from proxy.log.counters import split as split_days
from proxy.log.counters import whole_days
from proxy.log.errors import TextLocked
from proxy.log.failures import translated
from proxy.log.query import Filters
from proxy.log.reader import records_of
from proxy.log.spool import SpoolPlace
from proxy.log.tables import intervention_texts, interventions, owners
from proxy.log.texts import TextKeeper

_CHUNK = 200
# Problems named one by one of each kind; the rest is counted.
_NAMED = 10


@dataclass(slots=True)
class Findings:
    """What is wrong, by kind; and what was looked at."""

    problems: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    interventions: int = 0

    def add(self, kind: str, what: str) -> None:
        """One more."""
        self.counts[kind] += 1
        named = self.problems.setdefault(kind, [])
        if len(named) < _NAMED:
            named.append(what)


def verify(engine: Engine, texts: TextKeeper, spool: SpoolPlace | None = None) -> Findings:
    """Everything. Raises LogError where the database can't be read at all."""
    findings = Findings()
    with translated(engine.url), engine.connect() as connection:
        _file(connection, findings)
        _orphans(connection, findings)
        for row in _rows(connection):
            findings.interventions += 1
            _check(connection, dict(row), texts, findings)
        _counts(connection, findings)
    for path in [] if spool is None else spool.folder.glob("*"):
        if path.stat().st_size:
            findings.add("in the spool", f"{path.name}: {path.stat().st_size} bytes wait to be replayed")
    return findings


def _file(connection: Connection, findings: Findings) -> None:
    if connection.dialect.name == "sqlite":
        for row in connection.execute(text("PRAGMA integrity_check")).scalars():
            if row != "ok":
                findings.add("damaged file", str(row).partition("\n")[0][:200])


def _orphans(connection: Connection, findings: Findings) -> None:
    known = select(interventions.c.id)
    lost = select(intervention_texts.c.intervention_id).where(intervention_texts.c.intervention_id.not_in(known))
    for record_id in connection.execute(lost).scalars():
        findings.add("text without a record", record_id)
    living = select(owners.c.owner_id)
    is_open = (interventions.c.outcome == "open") & interventions.c.owner_id.not_in(living)
    for record_id in connection.execute(select(interventions.c.id).where(is_open)).scalars():
        findings.add("open without a process", record_id)


def _rows(connection: Connection) -> Iterator[Any]:
    position = ""
    columns = interventions.c
    query = select(columns.id, columns.outcome, columns.completed_us, columns.stored_text, columns.text_bytes)
    while True:
        rows = connection.execute(query.where(columns.id > position).order_by(columns.id).limit(_CHUNK)).mappings()
        found = rows.all()
        yield from found
        if len(found) < _CHUNK:
            return
        position = found[-1]["id"]


def _check(connection: Connection, row: dict[str, Any], texts: TextKeeper, findings: Findings) -> None:
    record_id = row["id"]
    has = intervention_texts.c.intervention_id == record_id
    parts = set(connection.execute(select(intervention_texts.c.part).where(has)).scalars())
    is_complete = row["completed_us"] is not None
    if row["text_bytes"]:
        wanted = {"halt", "completion"} if is_complete else {"halt"}
        if parts != wanted:
            findings.add("half-written", f"{record_id}: has {', '.join(sorted(parts)) or 'no text'}")
    if is_complete == (row["outcome"] in ("open", "interrupted")):
        findings.add("outcome and completion differ", f"{record_id}: {row['outcome']}")
    try:
        records_of(connection, select(interventions).where(interventions.c.id == record_id), texts)
    except TextLocked:
        findings.add("locked text", record_id)
    except (ValidationError, ValueError):
        findings.add("unreadable text", record_id)


def _counts(connection: Connection, findings: Findings) -> None:
    """Counts by day against the rows themselves."""
    counted = whole_days(connection, Filters(), split_days(Filters()))
    for kind, column in (("outcome", "outcome"), ("review_state", "review_state")):
        values = interventions.c[column]
        real = {value: n for value, n in connection.execute(select(values, func.count()).group_by(values)).all()}
        said = {value: n for (of, value), n in counted.items() if of == kind and n}
        if real != said:
            findings.add("wrong counts", f"{kind}: counted {said}, there are {real}")

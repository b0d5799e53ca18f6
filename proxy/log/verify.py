"""Looks a log over and says what is wrong with it. Reads everything once, in bounded memory; changes nothing."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, func, select, text

from proxy.log import cells
from proxy.log.counters import split as split_days
from proxy.log.counters import whole_days
from proxy.log.errors import TextLocked
from proxy.log.failures import translated
from proxy.log.query import Filters
from proxy.log.rows import record_of
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
    """Everything, as it is at one moment. Raises LogError where the database can't be read at all."""
    findings = Findings()
    with translated(engine.url), engine.connect() as connection:
        _file(connection, findings)
        _orphans(connection, findings)
        for rows in _chunks(connection):
            _check_all(connection, rows, texts, findings)
        _counts(connection, findings)
    for path in [] if spool is None else spool.folder.glob("*"):
        if size := path.stat().st_size:
            is_waiting = path.suffix == ".spool"
            findings.add("waits in the spool" if is_waiting else "refused by the database", f"{path}: {size} bytes")
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


def _chunks(connection: Connection) -> Iterator[list[dict[str, Any]]]:
    position = ""
    query = select(interventions).order_by(interventions.c.id).limit(_CHUNK)
    while True:
        rows = connection.execute(query.where(interventions.c.id > position)).mappings().all()
        yield [dict(row) for row in rows]
        if len(rows) < _CHUNK:
            return
        position = rows[-1]["id"]


def _check_all(connection: Connection, rows: list[dict[str, Any]], texts: TextKeeper, findings: Findings) -> None:
    ids = [row["id"] for row in rows]
    bodies: dict[str, dict[str, str]] = defaultdict(dict)
    query = intervention_texts.select().where(intervention_texts.c.intervention_id.in_(ids))
    for found in connection.execute(query):
        bodies[found.intervention_id][found.part] = found.body
    for row in rows:
        findings.interventions += 1
        _check(row, bodies[row["id"]], texts, findings)


def _check(row: dict[str, Any], bodies: dict[str, str], texts: TextKeeper, findings: Findings) -> None:
    record_id = row["id"]
    is_complete = row["completed_us"] is not None
    wanted = {"halt", "completion"} if is_complete else {"halt"}
    if row["text_bytes"] and set(bodies) != wanted:
        findings.add("half-written", f"{record_id}: has {', '.join(sorted(bodies)) or 'no text'}")
    if is_complete == (row["outcome"] in ("open", "interrupted")):
        findings.add("outcome and completion differ", f"{record_id}: {row['outcome']}")
    try:
        opened = {part: texts.open(body) for part, body in bodies.items()}
        record_of(row, opened.get("halt"), opened.get("completion"))
    except TextLocked:
        findings.add("locked text", record_id)
    except ValueError:  # no JSON, or not that of a record
        findings.add("unreadable text", record_id)


def _counts(connection: Connection, findings: Findings) -> None:
    """Counts by day against the rows themselves."""
    counted = whole_days(connection, Filters(), "*", split_days(Filters()))
    celled = cells.interventions_of(connection, Filters(), split_days(Filters()))
    for kind, column in (("outcome", "outcome"), ("review_state", "review_state")):
        values = interventions.c[column]
        rows = connection.execute(select(values, func.count()).group_by(values))
        real = {str(value): int(n) for value, n in rows}
        said = {value: n for (of, value), n in counted.items() if of == kind and n}
        in_cells = {value: n for (of, value), n in celled.items() if of == kind and n}
        if not real == said == in_cells:
            findings.add("wrong counts", f"{kind}: counted {said}, in cells {in_cells}, there are {real}")

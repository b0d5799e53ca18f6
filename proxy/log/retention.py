"""Deletes what has been kept long enough: by age and by size, in small steps, one process at a time.

The writing thread runs a step beside its writes whenever there is something to do, so that nobody waits for a purge of
hours. Everything that hangs on a record (its text, reviews) goes with it by cascade.
"""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, select, update

from proxy.log.counters import text_bytes
from proxy.log.sql import insert_once
from proxy.log.tables import chores, intervention_texts, interventions, requests

# Rows of one step: some ten milliseconds of work.
STEP_ROWS = 200
# How often the log is looked over.
EVERY_S = 600.0
_DAY_US = 86_400_000_000
# Their streams run, and their completions must find them. What a dead process left open is soon "interrupted".
_IS_OVER = interventions.c.outcome != "open"


@dataclass(frozen=True, slots=True)
class Retention:
    """None: for ever, as large as it gets. Days count from a record's creation; `max_bytes` bounds the texts."""

    keep_days: float | None = None
    keep_text_days: float | None = None
    max_bytes: int | None = None
    every_s: float = EVERY_S

    def step(self, connection: Connection) -> bool:
        """One step. True where there is more to do at once."""
        now_us = time.time_ns() // 1000
        if not self._is_due(connection, now_us):
            return False
        is_more = self._delete_old(connection, now_us) | self._forget_text(connection, now_us)
        is_more |= self._shrink(connection)
        if not is_more:
            connection.execute(update(chores).where(chores.c.name == "retention").values(done_us=now_us))
        return is_more

    def _is_due(self, connection: Connection, now_us: int) -> bool:
        """Whether this process is to do it now. The row is locked to the end of the step, so no other does."""
        insert_once(connection, chores, {"name": "retention", "done_us": 0})
        query = select(chores.c.done_us).where(chores.c.name == "retention").with_for_update(skip_locked=True)
        done_us = connection.execute(query).scalar()
        # In the future: some clock was wrong then, and has been set back since.
        return done_us is not None and not now_us - self.every_s * 1e6 < done_us <= now_us

    def _delete_old(self, connection: Connection, now_us: int) -> bool:
        if self.keep_days is None:
            return False
        oldest_us = now_us - int(self.keep_days * _DAY_US)
        others = [requests, *sample_tables()]
        found = [delete_some(connection, table, [table.c.created_us < oldest_us]) for table in others]
        found.append(delete_some(connection, interventions, [interventions.c.created_us < oldest_us, _IS_OVER]))
        return max(found) >= STEP_ROWS

    def _forget_text(self, connection: Connection, now_us: int) -> bool:
        if self.keep_text_days is None:
            return False
        columns = interventions.c
        is_old = columns.created_us < now_us - int(self.keep_text_days * _DAY_US)
        has_text = select(intervention_texts.c.part).where(intervention_texts.c.intervention_id == columns.id).exists()
        query = select(columns.id).where(is_old, _IS_OVER, columns.text_bytes > 0, has_text).limit(STEP_ROWS)
        ids = connection.execute(query.order_by(columns.created_us)).scalars().all()
        forget(connection, list(ids))
        oldest_us = now_us - int(self.keep_text_days * _DAY_US)
        found = [delete_some(connection, table, [table.c.created_us < oldest_us]) for table in sample_tables()]
        return max(len(ids), *found) >= STEP_ROWS

    def _shrink(self, connection: Connection) -> bool:
        if self.max_bytes is None or text_bytes(connection) <= self.max_bytes:
            return False
        return delete_some(connection, interventions, [_IS_OVER]) > 0


def delete_some(connection: Connection, table: Table, where: list[ColumnElement[bool]]) -> int:
    """Delete the oldest rows that fit, at most a step of them. Returns how many."""
    key = next(iter(table.primary_key))
    ids = connection.execute(select(key).where(*where).order_by(table.c.created_us).limit(STEP_ROWS)).scalars().all()
    if ids:
        connection.execute(delete(table).where(key.in_(ids)))
    return len(ids)


def forget(connection: Connection, ids: list[Any]) -> None:
    """Delete the text of records and the notes on them, which may quote it, and keep their rows."""
    from proxy.review.tables import review_texts  # noqa: PLC0415 - its tables are built on ours

    is_note = (review_texts.c.kind == "note") & review_texts.c.subject_id.in_(ids)
    connection.execute(delete(intervention_texts).where(intervention_texts.c.intervention_id.in_(ids)))
    connection.execute(delete(review_texts).where(is_note))
    gone = update(interventions).where(interventions.c.id.in_(ids))
    connection.execute(gone.values(stored_text="none", text_bytes=0))


def sample_tables() -> list[Table]:
    """Tables whose rows go with their texts: of no use without them, or (copies) soon of none."""
    from proxy.review.tables import samples  # noqa: PLC0415 - its tables are built on ours
    from proxy.shadow.tables import shadow_records  # noqa: PLC0415 - likewise

    return [samples, shadow_records]

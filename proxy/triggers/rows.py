"""Wordings as the database has them. Reads only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import Connection, select

from proxy.log.rows import moment
from proxy.triggers.errors import UnknownTrigger
from proxy.triggers.tables import triggers
from steer.triggers import Trigger

TriggerState = Literal["proposed", "approved", "rejected", "retired"]
STATES: tuple[str, ...] = get_args(TriggerState)
Origin = Literal["settings", "mined", "person"]


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """One wording. `evidence`: what speaks for a mined one. `settled_by` None: nobody has decided."""

    trigger: Trigger
    state: TriggerState
    origin: Origin
    evidence: dict[str, Any] | None
    proposed_by: str
    settled_by: str | None
    reason: str | None
    created_at: datetime
    changed_at: datetime

    def shown(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            **self.trigger.model_dump(), "state": self.state, "origin": self.origin, "evidence": self.evidence,
            "proposed_by": self.proposed_by, "settled_by": self.settled_by, "reason": self.reason,
            "created_at": self.created_at.isoformat(), "changed_at": self.changed_at.isoformat(),
        }  # fmt: skip


def read_triggers(connection: Connection, state: str | None = None) -> list[TriggerRow]:
    """In the order in which they came; `state` narrows."""
    query = select(triggers).order_by(triggers.c.created_us, triggers.c.id)
    if state is not None:
        query = query.where(triggers.c.state == state)
    return [_row(row) for row in connection.execute(query).mappings()]


def read_trigger(connection: Connection, id: str, *, locks: bool = False) -> TriggerRow:
    """One. Raises UnknownTrigger."""
    query = select(triggers).where(triggers.c.id == id)
    row = connection.execute(query.with_for_update() if locks else query).mappings().first()
    if row is None:
        raise UnknownTrigger(f"no trigger {id!r}: `steer triggers list` shows what there is")
    return _row(row)


def approved(connection: Connection) -> list[Trigger]:
    """Those in use."""
    return [row.trigger for row in read_triggers(connection, "approved")]


def _row(row: Mapping[Any, Any]) -> TriggerRow:
    return TriggerRow(
        Trigger.model_validate({name: row[name] for name in ("id", "kind", "text")}),
        row["state"],
        row["origin"],
        None if row["evidence"] is None else json.loads(row["evidence"]),
        row["proposed_by"],
        row["settled_by"],
        row["reason"],
        moment(row["created_us"]),
        moment(row["changed_us"]),
    )

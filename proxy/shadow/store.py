"""Copies in the database: written by the pool, counted for people, and exported when somebody asks. Blocks.

Texts go through `proxy.log.texts` like all others: of halted copies alone, and only as far as log.store_text allows.
"""

import json
from collections.abc import Iterator
from typing import Any

import anyio.to_thread
from sqlalchemy import Connection, Row, select, update

from proxy.adapters import shadowing
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.tables import adapter_shadows
from proxy.log.rows import completion_columns, halt_columns, record_of
from proxy.log.sql import insert_once
from proxy.log.texts import TextKeeper
from proxy.review.verdicts import opted_out
from proxy.shadow.answer import CopyMade
from proxy.shadow.pool import Copy
from proxy.shadow.tables import shadow_halts, shadow_records
from steer.record import InterventionRecord

_ROWS = 100


class ShadowStore:
    """What the pool needs of the database. Raises LogError."""

    def __init__(self, registry: AdapterRegistry, texts: TextKeeper) -> None:
        self._registry = registry
        self._texts = texts

    async def keep(self, copy: Copy, made: CopyMade) -> bool:
        """One copy, whole or not at all."""
        halts = await anyio.to_thread.run_sync(self._halts, made)
        return await anyio.to_thread.run_sync(
            self._registry.change, lambda c: _insert(c, copy, made, halts), abandon_on_cancel=False
        )

    async def end(self, adapter: str, reason: str) -> None:
        """The version is in shadow no more."""
        await anyio.to_thread.run_sync(
            self._registry.change, lambda c: shadowing.end_shadow(c, adapter, "proxy", reason)
        )

    def _halts(self, made: CopyMade) -> list[dict[str, Any]]:
        rows = []
        for record, completion in made.halts:
            kept = self._texts.halt(record)
            plain = halt_columns(record) | {"stored_text": kept.stored_text}
            sealed = None
            if completion is not None:
                plain |= completion_columns(completion)
                sealed = self._texts.completion(completion).body
            rows.append({"id": record.id, "plain": json.dumps(plain), "halt": kept.body, "completion": sealed})
        return rows


def _insert(connection: Connection, copy: Copy, made: CopyMade, halts: list[dict[str, Any]]) -> bool:
    """Locks the episode: what has ended takes no more."""
    table = adapter_shadows
    goes_on = update(table).where(table.c.id == copy.shadowed.id, table.c.ended_us.is_(None))
    if not connection.execute(goes_on.values(dropped=table.c.dropped)).rowcount:
        return False
    answer, champion = made.answer, copy.champion
    row = made.row | {
        "shadow_id": copy.shadowed.id, "client": copy.shadowed.client, "outcome": answer.outcome,
        "interventions": answer.interventions, "tokens": answer.tokens,
        "champion_outcome": None if champion is None else champion.outcome,
        "champion_interventions": None if champion is None else champion.interventions,
        "champion_tokens": None if champion is None else champion.tokens,
    }  # fmt: skip
    if not insert_once(connection, shadow_records, row):
        return False
    for halt in halts:
        connection.execute(shadow_halts.insert(), halt | {"shadow_record_id": row["id"]})
    return True


def export(registry: AdapterRegistry, texts: TextKeeper, adapter: str) -> Iterator[dict[str, Any]]:
    """Copies that a version answered, oldest first, marked as such, each with its intervention records.

    Tenants that are not trained on are left out. Raises LogError, TextLocked.
    """
    last = ""
    at = -1
    while rows := registry.read(lambda c, at=at, last=last: _page(c, adapter, at, last)):  # type: ignore[misc]
        for row, halts in rows:
            records = [_record(halt, texts).model_dump(mode="json") for halt in halts]
            yield {"shadow": dict(row._mapping), "interventions": records}
            at, last = row.created_us, row.id


def _page(connection: Connection, adapter: str, at: int, last: str) -> list[tuple[Row[Any], list[Row[Any]]]]:
    table = shadow_records
    after = (table.c.created_us > at) | ((table.c.created_us == at) & (table.c.id > last))
    query = select(table).where(table.c.adapter == adapter, after, table.c.tenant.not_in(opted_out()))
    rows = connection.execute(query.order_by(table.c.created_us, table.c.id).limit(_ROWS)).all()
    halts: dict[str, list[Row[Any]]] = {row.id: [] for row in rows}
    for halt in connection.execute(select(shadow_halts).where(shadow_halts.c.shadow_record_id.in_(halts))).all():
        halts[halt.shadow_record_id].append(halt)
    return [(row, halts[row.id]) for row in rows]


def _record(row: Row[Any], texts: TextKeeper) -> InterventionRecord:
    completion = None if row.completion is None else texts.open(row.completion)
    return record_of(json.loads(row.plain), texts.open(row.halt), completion)

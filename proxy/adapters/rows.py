"""Versions, routes and canaries as plain data, and how they are read. All take a connection; nothing here writes."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from proxy.adapters.errors import UnknownAdapter
from proxy.adapters.tables import adapter_canaries, adapter_events, adapter_routes, adapters
from proxy.log.rows import moment
from steer.adapter import AdapterState, Route, Traffic


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version. `manifest` names its parents; `gate`: the decision that it went through, None if none."""

    id: str
    alias: str
    base_model: str
    path: str
    sha256: str
    state: AdapterState
    reason: str | None
    manifest: dict[str, Any]
    gate: dict[str, Any] | None
    created_at: datetime
    changed_at: datetime

    @property
    def has_passed(self) -> bool:
        """Whether the gate, or a person against it, let this version through."""
        return bool((self.gate or {}).get("promotes"))


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A route with the way back."""

    route: Route
    standby: str | None


@dataclass(frozen=True, slots=True)
class Canary:
    """An episode: what both sides served. `ending` None: it goes on."""

    id: int
    alias: str
    candidate: str
    champion: str | None
    promote_after: int | None
    looks: int
    ending: str | None
    of_candidate: Traffic
    of_champion: Traffic


@dataclass(frozen=True, slots=True)
class Event:
    """Who did what, and why."""

    at: datetime
    alias: str
    adapter: str | None
    action: str
    actor: str
    reason: str | None


def read_adapter(connection: Connection, id: str) -> Adapter:
    """One version. Raises UnknownAdapter."""
    row = connection.execute(select(adapters).where(adapters.c.id == id)).first()
    if row is None:
        raise UnknownAdapter(f"no adapter {id} is registered; `steer adapters list` shows what there is")
    return _adapter(row)


def read_adapters(connection: Connection) -> list[Adapter]:
    """All versions, oldest first."""
    rows = connection.execute(select(adapters).order_by(adapters.c.created_us, adapters.c.number)).all()
    return [_adapter(row) for row in rows]


def read_routes(connection: Connection) -> list[RouteRow]:
    """All routes."""
    return [_route(row) for row in connection.execute(select(adapter_routes).order_by(adapter_routes.c.alias)).all()]


def read_route(connection: Connection, alias: str) -> RouteRow:
    """One route, locked until the transaction ends where the database locks rows. Raises UnknownAdapter."""
    query: Select[Any] = select(adapter_routes).where(adapter_routes.c.alias == alias).with_for_update()
    row = connection.execute(query).first()
    if row is None:
        raise UnknownAdapter(f"no adapter was ever registered for {alias!r}; `steer adapters list` shows the aliases")
    return _route(row)


def read_canary(connection: Connection, id: int) -> Canary:
    """One episode, which must exist."""
    row = connection.execute(select(adapter_canaries).where(adapter_canaries.c.id == id)).one()
    traffic = {
        side: Traffic(*(getattr(row, f"{side}_{count}") for count in ("conversations", "halted", "failed")))
        for side in ("candidate", "champion")
    }
    return Canary(
        id=row.id,
        alias=row.alias,
        candidate=row.candidate,
        champion=row.champion,
        promote_after=row.promote_after,
        looks=row.looks,
        ending=row.ending,
        of_candidate=traffic["candidate"],
        of_champion=traffic["champion"],
    )


def read_events(connection: Connection, alias: str | None = None, limit: int = 100) -> list[Event]:
    """The newest events, newest first."""
    query = select(adapter_events).order_by(adapter_events.c.id.desc()).limit(limit)
    if alias is not None:
        query = query.where(adapter_events.c.alias == alias)
    return [
        Event(moment(row.at_us), row.alias, row.adapter, row.action, row.actor, row.reason)
        for row in connection.execute(query).all()
    ]


def _adapter(row: Row[Any]) -> Adapter:
    return Adapter(
        id=row.id,
        alias=row.alias,
        base_model=row.base_model,
        path=row.path,
        sha256=row.sha256,
        state=AdapterState(row.state),
        reason=row.reason,
        manifest=json.loads(row.manifest),
        gate=None if row.gate is None else json.loads(row.gate),
        created_at=moment(row.created_us),
        changed_at=moment(row.changed_us),
    )


def _route(row: Row[Any]) -> RouteRow:
    route = Route(
        alias=row.alias,
        base_model=row.base_model,
        champion=row.champion,
        candidate=row.candidate,
        weight=row.weight,
        is_off=row.is_off,
        canary_id=row.canary_id,
        shadow=row.shadow,
        shadow_share=row.shadow_share or 0.0,
        shadow_id=row.shadow_id,
    )
    return RouteRow(route, row.standby)

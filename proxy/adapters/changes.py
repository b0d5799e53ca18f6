"""Every change of versions and routes, each one transaction's work, each with an event that says who and why.

Rules kept here
- States change as `steer.adapter` allows, and routes with them: what leaves a route drains before it is unloaded.
- Nothing takes traffic that the gate has not let through, or a person by name against it.
- A number is given once: rows stay, and the next number follows the highest that there ever was.
"""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from proxy.adapters.errors import NotAllowedNow
from proxy.adapters.rows import Adapter, RouteRow, read_adapter, read_route
from proxy.adapters.shadowing import leave_shadow
from proxy.adapters.steps import move, set_route, tell
from proxy.adapters.tables import adapter_canaries, adapter_canary_clients, adapter_routes, adapters
from proxy.log.rows import now_us
from proxy.log.sql import insert_once
from steer.adapter import AdapterState, AdapterVersion, check_name


@dataclass(frozen=True, slots=True)
class NewAdapter:
    """What is registered. `path` is where the engine finds the files; `gate`: the decision, as JSON holds it."""

    name: str
    alias: str
    base_model: str
    path: str
    sha256: str
    manifest: dict[str, Any]
    gate: dict[str, Any] | None = None


def next_number(connection: Connection, name: str) -> int:
    """The number that the next version of a name gets, if nobody is faster."""
    highest = connection.execute(select(func.max(adapters.c.number)).where(adapters.c.name == name)).scalar()
    return (highest or 0) + 1


def register(connection: Connection, new: NewAdapter, actor: str, number: int | None = None) -> str:
    """A new version; returns its id. The same weights under the same path are registered once.

    `number`: the one that the files were published under; one that is taken raises NotAllowedNow.
    """
    check_name(new.name)
    known = select(adapters.c.id).where(
        adapters.c.sha256 == new.sha256, adapters.c.path == new.path, adapters.c.name == new.name
    )
    if (found := connection.execute(known).scalar()) is not None:
        return str(found)
    _make_route(connection, new)
    version = AdapterVersion(new.name, number if number is not None else next_number(connection, new.name))
    at = now_us()
    values = {
        "id": str(version), "name": version.name, "number": version.number, "alias": new.alias,
        "base_model": new.base_model, "path": new.path, "sha256": new.sha256, "state": AdapterState.REGISTERED.value,
        "manifest": json.dumps(new.manifest, sort_keys=True),
        "gate": None if new.gate is None else json.dumps(new.gate), "created_us": at, "changed_us": at,
    }  # fmt: skip
    if not insert_once(connection, adapters, values):
        raise NotAllowedNow(f"{version} is taken, and a number is given once: publish under another")
    tell(connection, new.alias, str(version), "registered", actor, None)
    return str(version)


def _make_route(connection: Connection, new: NewAdapter) -> None:
    values = {
        "alias": new.alias, "base_model": new.base_model, "weight": 0.0, "is_off": False, "changed_us": now_us(),
    }  # fmt: skip
    insert_once(connection, adapter_routes, values)
    route = read_route(connection, new.alias).route  # locks it: two that register at once get two numbers
    if route.base_model != new.base_model:
        raise NotAllowedNow(
            f"{new.alias!r} stands for adapters of {route.base_model!r}, not of {new.base_model!r}: give another alias"
        )


def let_through(connection: Connection, id: str, by: str, reason: str) -> None:
    """Record that a person lets a version through against the gate, or without it. Raises ValueError, AdapterError."""
    if not by.strip() or not reason.strip():
        raise ValueError("an override needs the name of who gives it and a reason")
    adapter = read_adapter(connection, id)
    gate = (adapter.gate or {"checks": []}) | {"promotes": True, "override": {"by": by, "reason": reason}}
    connection.execute(adapters.update().where(adapters.c.id == id).values(gate=json.dumps(gate)))
    tell(connection, adapter.alias, id, "override", by, reason)


def start_canary(
    connection: Connection, id: str, weight: float, actor: str, reason: str | None, promote_after: int | None = None
) -> int:
    """Give a version a share of its alias's conversations; again for another share. Returns the episode's id."""
    if not 0 < weight <= 1:
        raise NotAllowedNow(f"a candidate's share is more than 0 and at most 1, not {weight:g}")
    adapter = read_adapter(connection, id)
    row = read_route(connection, adapter.alias)
    if row.route.candidate == id and row.route.canary_id is not None:
        set_route(connection, adapter.alias, weight=weight)
        connection.execute(
            adapter_canaries.update()
            .where(adapter_canaries.c.id == row.route.canary_id)
            .values(promote_after=promote_after)
        )
        tell(connection, adapter.alias, id, f"weight {weight:g}", actor, reason)
        return row.route.canary_id
    if row.route.candidate is not None:
        raise NotAllowedNow(f"{row.route.candidate} is the candidate of {adapter.alias!r}: promote it, or roll it back")
    _need_gate(adapter)
    if row.route.shadow == id:
        adapter = leave_shadow(connection, row, actor, f"{id} is the candidate")
    move(connection, adapter, AdapterState.CANARY, reason)
    counts = {column.name: 0 for column in adapter_canaries.columns if column.name.startswith(("cand", "champ"))}
    made = connection.execute(
        adapter_canaries.insert().returning(adapter_canaries.c.id),
        counts
        | {"alias": adapter.alias, "candidate": id, "champion": row.route.champion, "promote_after": promote_after}
        | {"looks": 0, "began_us": now_us()},
    ).scalar_one()
    set_route(connection, adapter.alias, candidate=id, weight=weight, canary_id=made)
    tell(connection, adapter.alias, id, f"canary {weight:g}", actor, reason)
    return int(made)


def promote(connection: Connection, id: str, actor: str, reason: str | None) -> None:
    """Make a version the champion of its alias; the one before stands by, the one before that drains."""
    adapter = read_adapter(connection, id)
    row = read_route(connection, adapter.alias)
    if row.route.champion == id:
        return
    _need_gate(adapter)
    if row.route.shadow is not None:  # its copies were compared with another champion
        leave_shadow(connection, row, actor, f"{id} was promoted")
        adapter = read_adapter(connection, id)
    move(connection, adapter, AdapterState.CHAMPION, reason)
    if row.standby is not None and row.standby != id:
        move(connection, read_adapter(connection, row.standby), AdapterState.DRAINING, f"{id} was promoted")
    if row.route.champion is not None:
        move(connection, read_adapter(connection, row.route.champion), AdapterState.STANDBY, f"{id} was promoted")
    values: dict[str, Any] = {"champion": id, "standby": row.route.champion}
    if row.route.canary_id is not None:  # another candidate would be compared with a champion that is none any more
        _end_canary(connection, row.route.canary_id, "promoted" if row.route.candidate == id else f"{id} was promoted")
        values |= {"candidate": None, "weight": 0.0, "canary_id": None}
        if row.route.candidate is not None and row.route.candidate != id:
            other = read_adapter(connection, row.route.candidate)
            move(connection, other, AdapterState.DRAINING, f"{id} was promoted")
    set_route(connection, adapter.alias, **values)
    tell(connection, adapter.alias, id, "promoted", actor, reason)


def roll_back(connection: Connection, alias: str, actor: str, reason: str, only: str | None = None) -> str | None:
    """Take the candidate out of a route; where there is none, the champion, for which the one before steps in.

    `only`: do nothing unless this is the version that would go. Returns the version that went, None where none did.
    """
    row = read_route(connection, alias)
    route = row.route
    gone = route.candidate if route.candidate is not None else route.champion
    if only is not None and gone != only:
        return None
    if gone is None:
        raise NotAllowedNow(f"{alias!r} has neither candidate nor champion: it is the base model already")
    move(connection, read_adapter(connection, gone), AdapterState.DRAINING, reason)
    if gone == route.candidate:
        if route.canary_id is not None:
            _end_canary(connection, route.canary_id, reason)
        set_route(connection, alias, candidate=None, weight=0.0, canary_id=None)
    else:
        if route.shadow is not None:
            leave_shadow(connection, row, actor, f"{gone} was rolled back")
        if row.standby is not None:
            move(connection, read_adapter(connection, row.standby), AdapterState.CHAMPION, f"{gone} was rolled back")
        set_route(connection, alias, champion=row.standby, standby=None)
    tell(connection, alias, gone, "rolled back", actor, reason)
    return gone


def retire(connection: Connection, id: str, actor: str, reason: str | None) -> None:
    """Take a version that has no traffic out of service for good. Raises NotAllowedNow for one that has."""
    adapter = read_adapter(connection, id)
    row = read_route(connection, adapter.alias)
    if adapter.state is AdapterState.RETIRED:
        return
    if adapter.state in (AdapterState.CANARY, AdapterState.CHAMPION):
        raise NotAllowedNow(f"{id} takes traffic as {adapter.state}: roll it back first")
    if row.route.shadow == id:
        adapter = leave_shadow(connection, row, actor, f"{id} was retired")
    was_loaded = adapter.state is not AdapterState.REGISTERED
    if adapter.state is not AdapterState.DRAINING:
        move(connection, adapter, AdapterState.DRAINING if was_loaded else AdapterState.RETIRED, reason)
    if row.standby == id:
        set_route(connection, adapter.alias, standby=None)
    tell(connection, adapter.alias, id, "retired", actor, reason)


def drained(connection: Connection, id: str) -> None:
    """The last stream has ended and no engine holds it any more."""
    adapter = read_adapter(connection, id)
    if adapter.state is AdapterState.DRAINING:
        move(connection, adapter, AdapterState.RETIRED, adapter.reason)
        tell(connection, adapter.alias, id, "unloaded", "proxy", None)


def switch(connection: Connection, alias: str, *, is_off: bool, actor: str, reason: str | None) -> None:
    """The kill switch: off sends all of an alias's conversations to the base model."""
    row = read_route(connection, alias)
    if is_off and row.route.shadow is not None:
        leave_shadow(connection, row, actor, "the alias was switched off" + (f": {reason}" if reason else ""))
    set_route(connection, alias, is_off=is_off)
    tell(connection, alias, None, "switched off" if is_off else "switched on", actor, reason)


def _need_gate(adapter: Adapter) -> None:
    if adapter.has_passed:
        return
    why = "was never evaluated" if adapter.gate is None else "did not pass its gate"
    raise NotAllowedNow(
        f"{adapter.id} {why} (`steer adapters show {adapter.id}`): it takes no traffic, unless a person lets it "
        "through with --override REASON --by NAME"
    )


def _end_canary(connection: Connection, id: int, ending: str) -> None:
    values = {"ended_us": now_us(), "ending": ending}
    connection.execute(adapter_canaries.update().where(adapter_canaries.c.id == id).values(**values))
    connection.execute(adapter_canary_clients.delete().where(adapter_canary_clients.c.canary_id == id))


def route_of(connection: Connection, target: str) -> RouteRow:
    """The route of an alias, or of a version's alias. Raises UnknownAdapter."""
    known = connection.execute(select(adapters.c.alias).where(adapters.c.id == target)).scalar()
    return read_route(connection, target if known is None else str(known))

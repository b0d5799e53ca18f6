"""Shadow mode's beginning and end: one version of an alias at a time.

It ends by itself where its comparison does: another champion, its own canary, the kill switch, an engine that lost it.
"""

from sqlalchemy import Connection

from proxy.adapters.errors import NotAllowedNow
from proxy.adapters.rows import Adapter, RouteRow, read_adapter, read_route
from proxy.adapters.steps import move, set_route, tell
from proxy.adapters.tables import adapter_shadows
from proxy.log.rows import now_us
from steer.adapter import AdapterState


def start_shadow(connection: Connection, id: str, share: float, actor: str, reason: str | None) -> int:
    """Let a version answer copies of a share of its alias's requests; again for another share. Returns the episode.

    It needs no gate: nobody is shown what it says.
    """
    if not 0 < share <= 1:
        raise NotAllowedNow(f"the share of requests that are copied is more than 0 and at most 1, not {share:g}")
    adapter = read_adapter(connection, id)
    row = read_route(connection, adapter.alias)
    if row.route.shadow == id and row.route.shadow_id is not None:
        set_route(connection, adapter.alias, shadow_share=share)
        changed = adapter_shadows.update().where(adapter_shadows.c.id == row.route.shadow_id).values(share=share)
        connection.execute(changed)
        tell(connection, adapter.alias, id, f"shadow {share:g}", actor, reason)
        return row.route.shadow_id
    if row.route.is_off:
        raise NotAllowedNow(f"{adapter.alias!r} is switched off: `steer adapters on {adapter.alias}` first")
    if row.route.shadow is not None:
        raise NotAllowedNow(f"{row.route.shadow} is in shadow of {adapter.alias!r}: end that first, with --share 0")
    move(connection, adapter, AdapterState.SHADOW, reason)
    values = {
        "alias": adapter.alias, "adapter": id, "champion": row.route.champion, "share": share, "dropped": 0,
        "began_us": now_us(),
    }  # fmt: skip
    made = connection.execute(adapter_shadows.insert().returning(adapter_shadows.c.id), values).scalar_one()
    set_route(connection, adapter.alias, shadow=id, shadow_share=share, shadow_id=made)
    tell(connection, adapter.alias, id, f"shadow {share:g}", actor, reason)
    return int(made)


def end_shadow(connection: Connection, id: str, actor: str, reason: str) -> bool:
    """The version answers no more copies and is registered as before. False where it answered none."""
    row = read_route(connection, read_adapter(connection, id).alias)
    if row.route.shadow != id:
        return False
    leave_shadow(connection, row, actor, reason)
    return True


def leave_shadow(connection: Connection, row: RouteRow, actor: str, reason: str) -> Adapter:
    """End what is in shadow of a route; returns the version as it is then."""
    route = row.route
    assert route.shadow is not None, "asked by the callers"
    move(connection, read_adapter(connection, route.shadow), AdapterState.REGISTERED, reason)
    ended = {"ended_us": now_us(), "ending": reason}
    connection.execute(adapter_shadows.update().where(adapter_shadows.c.id == route.shadow_id).values(**ended))
    set_route(connection, route.alias, shadow=None, shadow_share=None, shadow_id=None)
    tell(connection, route.alias, route.shadow, "shadow ended", actor, reason)
    return read_adapter(connection, route.shadow)


def add_dropped(connection: Connection, dropped: dict[int, int]) -> None:
    """Copies that were not made, or not to their end, by episode."""
    for id, count in dropped.items():
        more = adapter_shadows.c.dropped + count
        connection.execute(adapter_shadows.update().where(adapter_shadows.c.id == id).values(dropped=more))

"""What every change of versions and routes is made of: a move from state to state, a route's new values, an event."""

from typing import Any

from sqlalchemy import Connection

from proxy.adapters.errors import NotAllowedNow
from proxy.adapters.rows import Adapter
from proxy.adapters.tables import adapter_events, adapter_routes, adapters
from proxy.log.rows import now_us
from steer.adapter import AdapterState, may_become

_SPENT = (AdapterState.DRAINING, AdapterState.RETIRED)


def move(connection: Connection, adapter: Adapter, state: AdapterState, reason: str | None) -> None:
    """Raises NotAllowedNow where the version may not."""
    if not may_become(adapter.state, state):
        raise NotAllowedNow(
            f"{adapter.id} is {adapter.state} and can't become {state}"
            + (": publish its files again, under a new number" if adapter.state in _SPENT else "")
        )
    changed = {"state": state.value, "reason": reason, "changed_us": now_us()}
    connection.execute(adapters.update().where(adapters.c.id == adapter.id).values(**changed))


def set_route(connection: Connection, alias: str, **values: Any) -> None:
    """Columns of a route."""
    changed = values | {"changed_us": now_us()}
    connection.execute(adapter_routes.update().where(adapter_routes.c.alias == alias).values(**changed))


def tell(connection: Connection, alias: str, adapter: str | None, action: str, actor: str, reason: str | None) -> None:
    """Who did what, and why."""
    values = {"at_us": now_us(), "alias": alias, "adapter": adapter, "action": action, "actor": actor}
    connection.execute(adapter_events.insert(), values | {"reason": reason})

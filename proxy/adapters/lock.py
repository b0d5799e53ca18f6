"""The bake's lock: one bake of a name at a time, over all machines that share the log.

A row names the holder; the row of a process that no longer lives (`proxy.adapters.presence`) is free to take.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, delete, func, select

from proxy.adapters.errors import NotAllowedNow
from proxy.adapters.presence import Presence
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.tables import bake_locks
from proxy.log.rows import moment, now_us
from proxy.log.tables import owners

_BAKE_LOCK = 0x57EE2005  # any constant: the advisory lock that lets one process ask at a time


@contextmanager
def held(registry: AdapterRegistry, name: str) -> Iterator[None]:
    """Hold a lock for as long as the block lasts. Raises NotAllowedNow where another lives that holds it."""
    with Presence(registry) as presence:
        registry.change(lambda c: _take(c, name, presence.owner_id))
        try:
            yield
        finally:
            registry.change(lambda c: _leave(c, name, presence.owner_id))


def _take(connection: Connection, name: str, owner_id: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_BAKE_LOCK)))
    holder = connection.execute(
        select(bake_locks.c.taken_us)
        .join(owners, owners.c.owner_id == bake_locks.c.owner_id)
        .where(bake_locks.c.name == name)
    ).first()
    if holder is not None:
        raise NotAllowedNow(
            f"another bake of {name!r} has been running since {moment(holder.taken_us):%Y-%m-%d %H:%M:%S} UTC: "
            "wait for it, or end it"
        )
    connection.execute(delete(bake_locks).where(bake_locks.c.name == name))
    connection.execute(bake_locks.insert().values(name=name, owner_id=owner_id, taken_us=now_us()))


def _leave(connection: Connection, name: str, owner_id: str) -> None:
    connection.execute(delete(bake_locks).where(bake_locks.c.name == name, bake_locks.c.owner_id == owner_id))

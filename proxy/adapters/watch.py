"""A canary's counts, added up from all proxies, and what follows from them: back, on, or wait."""

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import Connection, delete, func, select, update

from proxy.adapters import changes
from proxy.adapters.rows import read_canary
from proxy.adapters.tables import adapter_canaries, adapter_usage
from proxy.log.sql import insert_once
from proxy.log.tables import owners
from steer.adapter import Traffic, WatchLimits, look

Side = Literal["candidate", "champion"]


def add_all(connection: Connection, counted: Mapping[int, Mapping[Side, Traffic]]) -> None:
    """`add_traffic` for every episode."""
    for canary_id, sides in counted.items():
        add_traffic(connection, canary_id, sides)


def add_traffic(connection: Connection, canary_id: int, counted: Mapping[Side, Traffic]) -> None:
    """Add what one process has served since it last told; an episode that has ended takes no more."""
    table, sums = adapter_canaries, {}
    for side, traffic in counted.items():
        for count in ("conversations", "halted", "failed"):
            column = table.c[f"{side}_{count}"]
            sums[column.name] = column + getattr(traffic, count)
    if sums:
        connection.execute(update(table).where(table.c.id == canary_id, table.c.ended_us.is_(None)).values(**sums))


def judge(connection: Connection, canary_id: int, limits: WatchLimits) -> str | None:
    """Look at a canary where a look is due: roll back what is worse, promote what has served long enough.

    Returns what was done, None where nothing was. Several proxies may call this at once: one of them looks.
    """
    canary = read_canary(connection, canary_id)
    if canary.ending is not None:
        return None
    found = look(canary.of_champion, canary.of_candidate, canary.looks, limits)
    if found is not None:
        # The count of looks is the ticket: who comes second finds another number, and has nothing to do.
        table = adapter_canaries
        ticket = update(table).where(table.c.id == canary_id, table.c.looks == canary.looks).values(looks=found.number)
        if not connection.execute(ticket).rowcount:
            return None
        if found.reasons:
            reason = "; ".join(found.reasons)
            gone = changes.roll_back(connection, canary.alias, "proxy", reason, only=canary.candidate)
            return None if gone is None else f"rolled back {gone}: {reason}"
    if canary.promote_after is not None and canary.of_candidate.conversations >= canary.promote_after:
        served = f"{canary.of_candidate.conversations} conversations without a sign of being worse"
        changes.promote(connection, canary.candidate, "proxy", served)
        return f"promoted {canary.candidate}: {served}"
    return None


def tell_usage(connection: Connection, owner_id: str, streams: Mapping[str, int]) -> None:
    """What this process runs, in place of what it said before."""
    connection.execute(delete(adapter_usage).where(adapter_usage.c.owner_id == owner_id))
    for adapter, count in streams.items():
        if count:
            insert_once(connection, adapter_usage, {"owner_id": owner_id, "adapter": adapter, "streams": count})


def streams_on(connection: Connection, adapter: str) -> int:
    """Streams that living processes run on a version, by what they last said."""
    living = select(owners.c.owner_id)
    query = select(func.sum(adapter_usage.c.streams)).where(
        adapter_usage.c.adapter == adapter, adapter_usage.c.owner_id.in_(living)
    )
    return int(connection.execute(query).scalar() or 0)

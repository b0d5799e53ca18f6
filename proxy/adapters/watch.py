"""A canary's counts, added up from all proxies, and what follows from them: back, on, or wait."""

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import Connection, delete, func, insert, select, update

from proxy.adapters import changes
from proxy.adapters.rows import Canary, read_canary
from proxy.adapters.tables import adapter_canaries, adapter_canary_clients, adapter_usage
from proxy.log.sql import insert_once
from proxy.log.tables import owners
from steer.adapter import Sides, Traffic, WatchLimits, look
from steer.witnesses import counted as counted_of

Side = Literal["candidate", "champion"]
# What one process has served, by side and client; the empty client stands for all who can't be told apart.
Counted = Mapping[Side, Mapping[str, Traffic]]

_COUNTS = ("conversations", "halted", "failed")


def add_all(connection: Connection, counted: Mapping[int, Counted]) -> None:
    """`add_traffic` for every episode."""
    for canary_id, sides in counted.items():
        add_traffic(connection, canary_id, sides)


def add_traffic(connection: Connection, canary_id: int, counted: Counted) -> None:
    """Add what one process has served since it last told; an episode that has ended takes no more."""
    table, sums = adapter_canaries, {}
    for side, clients in counted.items():
        for count in _COUNTS:
            column = table.c[f"{side}_{count}"]
            sums[column.name] = column + sum(getattr(traffic, count) for traffic in clients.values())
    runs = update(table).where(table.c.id == canary_id, table.c.ended_us.is_(None))
    if not sums or not connection.execute(runs.values(**sums)).rowcount:
        return
    for side, clients in counted.items():
        for client, traffic in clients.items():
            if client:
                _add_client(connection, {"canary_id": canary_id, "side": side, "client": client}, traffic)


def _add_client(connection: Connection, whose: dict[str, object], traffic: Traffic) -> None:
    """Who comes here holds the episode's row: no two processes at once."""
    table = adapter_canary_clients
    more = {count: table.c[count] + getattr(traffic, count) for count in _COUNTS}
    known = update(table).where(*(table.c[name] == value for name, value in whose.items()))
    if not connection.execute(known.values(**more)).rowcount:
        connection.execute(insert(table), whose | {count: getattr(traffic, count) for count in _COUNTS})


def witnesses(connection: Connection, canary: Canary) -> tuple[Sides, frozenset[Sides]]:
    """What counts of a canary's traffic, and the same without each client (`steer.witnesses`)."""
    clients: dict[str, dict[str, Traffic]] = {}
    rest = {"champion": canary.of_champion, "candidate": canary.of_candidate}
    table = adapter_canary_clients
    for row in connection.execute(select(table).where(table.c.canary_id == canary.id)):
        traffic = Traffic(row.conversations, row.halted, row.failed)
        clients.setdefault(row.client, {})[row.side] = traffic
        rest[row.side] = rest[row.side].less(traffic)
    none = Traffic()
    told = [Sides(sides.get("champion", none), sides.get("candidate", none)) for sides in clients.values()]
    return counted_of(told, Sides(rest["champion"], rest["candidate"]))


def judge(connection: Connection, canary_id: int, limits: WatchLimits) -> str | None:
    """Look at a canary where a look is due: roll back what is worse, promote what has served long enough.

    Returns what was done, None where nothing was. Several proxies may call this at once: one of them looks.
    """
    canary = read_canary(connection, canary_id)
    if canary.ending is not None:
        return None
    raw, after = canary.of_candidate.conversations, canary.promote_after
    if raw < limits.first_look * 2**canary.looks and (after is None or raw < after):
        return None  # what counts is no more than that
    (champion, candidate), without = witnesses(connection, canary)
    found = look(champion, candidate, canary.looks, limits, without)
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
    if after is not None and candidate.conversations >= after:
        served = f"{candidate.conversations} conversations without a sign of being worse"
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

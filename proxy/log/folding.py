"""PostgreSQL: adds deltas, which triggers append there, to the counts and cells by day. SQLite keeps both at once."""

from sqlalchemy import Connection, func, select, text

from proxy.log import cells, counters

_FOLD_LOCK = 0x57EE2003  # any constant: the advisory lock that lets one process fold at a time
# Deltas folded at a time: some tenths of a second, which whoever writes meanwhile waits.
_FOLDED = 5000


def fold(connection: Connection) -> bool:
    """Some deltas. True where there may be more. Another process that does so at this moment is left to it."""
    if connection.dialect.name != "postgresql":
        return False
    if not connection.execute(select(func.pg_try_advisory_xact_lock(_FOLD_LOCK))).scalar_one():
        return False
    number = connection.execute(_FOLD, {"some": _FOLDED}).scalar_one()
    if number:
        connection.execute(_SWEEP)
    return bool(number >= _FOLDED)


_FOLD = text(
    "WITH moved AS (DELETE FROM daily_count_deltas "
    "WHERE ctid = ANY (ARRAY(SELECT ctid FROM daily_count_deltas LIMIT :some)) RETURNING *), folded AS ("
    "INSERT INTO daily_counts (scope, day, mode, kind, value, n) "
    f"SELECT scope, day, mode, kind, value, sum(n) FROM ({counters.unfolded('moved')}) AS changes "
    "GROUP BY 1, 2, 3, 4, 5 ON CONFLICT (scope, day, mode, kind, value) DO UPDATE SET n = daily_counts.n + excluded.n"
    f"), celled AS (INSERT INTO daily_cells ({cells.NAMES}, n, requests, halted) "
    f"SELECT {cells.NAMES}, sum(n), sum(requests), sum(halted) FROM ({cells.unfolded('moved')}) AS changes "
    f"GROUP BY {cells.NAMES} HAVING sum(n) <> 0 OR sum(requests) <> 0 OR sum(halted) <> 0 "
    f"ON CONFLICT ({cells.NAMES}) DO UPDATE SET n = daily_cells.n + excluded.n, "
    "requests = daily_cells.requests + excluded.requests, halted = daily_cells.halted + excluded.halted) "
    "SELECT count(*) FROM moved"
)
# What retention and purges emptied; found by an index that holds nothing else.
_SWEEP = text("DELETE FROM daily_cells WHERE n = 0 AND requests = 0")

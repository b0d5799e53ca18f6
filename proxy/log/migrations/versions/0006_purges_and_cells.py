"""Purges: what was purged does not come back. Cells: counts by day and every column that one counts by.

A purge is kept as a row, and a trigger before each insert leaves out what it covers, by whatever path a row comes: a
spool, a write under way, an old export.

A cell counts the rows of a day that share all columns. SQLite's triggers keep cells at once; on PostgreSQL the deltas
of migration 0002 are folded into them with the other counts.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DAY_US = 86_400_000_000
_PURGED_TABLES = ("interventions", "samples", "requests")
_COVERED = (
    "EXISTS (SELECT 1 FROM purges AS p WHERE (p.request_id IS NULL OR p.request_id = new.request_id) "
    "AND (p.tenant IS NULL OR p.tenant = new.tenant) AND (p.before_us IS NULL OR new.created_us < p.before_us))"
)
_KEYS = ("tenant", "model", "mode", "adapter", "outcome", "category", "trigger_id", "review_state")


def upgrade() -> None:
    _purges()
    op.create_table(
        "daily_cells",
        sa.Column("day", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in _KEYS),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("n", "requests", "halted")),
        sa.PrimaryKeyConstraint("day", *_KEYS, name="pk_daily_cells"),
        sqlite_with_rowid=False,
    )
    is_empty = sa.text("n = 0 AND requests = 0")
    op.create_index("ix_daily_cells_empty", "daily_cells", ["day"], sqlite_where=is_empty, postgresql_where=is_empty)
    # What a score chooses is counted by rows: from the index alone.
    op.create_index("ix_interventions_score", "interventions", ["score", *_KEYS])
    _fill_cells()
    if op.get_bind().dialect.name != "postgresql":
        for statement in _SQLITE_CELLS:
            op.execute(sa.text(statement))


def _purges() -> None:
    op.create_table(
        "purges",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("tenant", sa.Text),
        sa.Column("before_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_purges"),
    )
    op.create_index("ix_purges_request_id", "purges", ["request_id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION steer_purged() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {_COVERED} "
            "THEN RETURN NULL; END IF; RETURN NEW; END $$"
        )
        for table in _PURGED_TABLES:
            op.execute(
                f"CREATE TRIGGER {table}_purged BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION steer_purged()"
            )
        return
    for table in _PURGED_TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_purged BEFORE INSERT ON {table} WHEN {_COVERED} BEGIN SELECT RAISE(IGNORE); END"
        )


# -- cells ------------------------------------------------------------------------------------------------------------


def _cell(row: str, *, is_request: bool) -> str:
    """The key of the cell that a row counts in. A request has none of an intervention's columns."""
    if is_request:
        return f"{row}.created_us / {_DAY_US}, {row}.tenant, {row}.model, {row}.mode, '', '', '', '', ''"
    texts = (f"coalesce({row}.{name}, 'none')" for name in ("adapter", "outcome", "category", "trigger_id"))
    return (
        f"{row}.created_us / {_DAY_US}, {row}.tenant, {row}.model, {row}.mode, {', '.join(texts)}, {row}.review_state"
    )


_INTO = f"INSERT INTO daily_cells (day, {', '.join(_KEYS)}, n, requests, halted) "
_ADD = (
    f"ON CONFLICT (day, {', '.join(_KEYS)}) DO UPDATE SET n = n + excluded.n, requests = requests + excluded.requests, "
    "halted = halted + excluded.halted;"
)


def _sqlite_add(row: str, sign: int, *, is_request: bool = False) -> str:
    halted = f"CASE WHEN {row}.interventions > 0 THEN {sign} ELSE 0 END" if is_request else "0"
    numbers = f"0, {sign}, {halted}" if is_request else f"{sign}, 0, 0"
    added = f"{_INTO} VALUES ({_cell(row, is_request=is_request)}, {numbers}) {_ADD}"
    if sign > 0:
        return added
    empty = f"DELETE FROM daily_cells WHERE (day, {', '.join(_KEYS)}) = ({_cell(row, is_request=is_request)}) "
    return f"{added} {empty} AND n = 0 AND requests = 0;"


_DIFFERS = " OR ".join(
    f"old.{name} IS NOT new.{name}" for name in ("outcome", "category", "trigger_id", "review_state")
)
_NAMES = {
    "interventions_celled": ("AFTER INSERT ON interventions", _sqlite_add("new", 1)),
    "interventions_moved": (
        f"AFTER UPDATE OF outcome, category, trigger_id, review_state ON interventions WHEN {_DIFFERS}",
        f"{_sqlite_add('old', -1)} {_sqlite_add('new', 1)}",
    ),
    "interventions_uncelled": ("AFTER DELETE ON interventions", _sqlite_add("old", -1)),
    "requests_celled": ("AFTER INSERT ON requests", _sqlite_add("new", 1, is_request=True)),
    "requests_uncelled": ("AFTER DELETE ON requests", _sqlite_add("old", -1, is_request=True)),
}
_SQLITE_CELLS = [f"CREATE TRIGGER {name} {when} BEGIN {act} END" for name, (when, act) in _NAMES.items()]


def _fill_cells() -> None:
    """With what is there; on PostgreSQL without what waits to be folded, which comes by itself."""
    parts = [
        f"SELECT {_cell('i', is_request=False)}, 1, 0, 0 FROM interventions AS i",
        f"SELECT {_cell('r', is_request=True)}, 0, 1, CASE WHEN r.interventions > 0 THEN 1 ELSE 0 END "
        "FROM requests AS r",
    ]
    if op.get_bind().dialect.name == "postgresql":
        keys = ", ".join(f"coalesce(d.{name}, '')" for name in _KEYS)
        parts.append(f"SELECT d.day, {keys}, -d.n, -d.requests, -d.halted FROM daily_count_deltas AS d")
    names = f"day, {', '.join(_KEYS)}"
    source = f"WITH found ({names}, n, requests, halted) AS ({' UNION ALL '.join(parts)})"
    op.execute(
        sa.text(
            f"{_INTO} {source} SELECT {names}, sum(n), sum(requests), sum(halted) FROM found GROUP BY {names} "
            "HAVING sum(n) <> 0 OR sum(requests) <> 0"
        )
    )


def downgrade() -> None:
    is_server = op.get_bind().dialect.name == "postgresql"
    for table in _PURGED_TABLES:
        op.execute(f"DROP TRIGGER {table}_purged" + (f" ON {table}" if is_server else ""))
    if is_server:
        op.execute("DROP FUNCTION steer_purged()")
    else:
        for name in _NAMES:
            op.execute(f"DROP TRIGGER {name}")
    op.drop_index("ix_interventions_score", "interventions")
    op.drop_table("daily_cells")
    op.drop_table("purges")

"""What the log keeps beside interventions: counts by day, replayed spools, periodic chores.

Counts are kept by database triggers, so that whoever writes a row, by whatever path, changes them in one transaction.
SQLite adds them up at once. On PostgreSQL two proxies would wait for each other's rows, so a trigger there only appends
to `daily_count_deltas`, which `proxy/log/counters.py` folds into `daily_counts` now and then.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_DAY_US = 86_400_000_000
_INDEXED = ("category", "trigger_id", "model", "adapter", "mode")


def upgrade() -> None:
    op.add_column("interventions", sa.Column("stored_text", sa.Text, nullable=False, server_default="full"))
    op.add_column("interventions", sa.Column("text_bytes", sa.BigInteger, nullable=False, server_default="0"))
    for name in _INDEXED:
        op.create_index(f"ix_interventions_{name}", "interventions", [name, "created_us"])
    op.create_table("daily_counts", *_count_columns(), sa.PrimaryKeyConstraint(*_KEY, name="pk_daily_counts"))
    op.create_index("ix_daily_counts_tenant", "daily_counts", ["tenant", "day"])
    op.create_table("daily_count_deltas", *_count_columns())
    op.create_table(
        "spools",
        sa.Column("spool_id", sa.Text, nullable=False),
        sa.Column("replayed_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("spool_id", name="pk_spools"),
    )
    op.create_table(
        "chores",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("done_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_chores"),
    )
    _count_what_is_there()
    for statement in _POSTGRES if op.get_bind().dialect.name == "postgresql" else _SQLITE:
        op.execute(sa.text(statement))


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in ("interventions", "requests"):
            op.execute(f"DROP TRIGGER {table}_counted ON {table}")
            op.execute(f"DROP FUNCTION steer_count_{table}()")
    else:
        for name in ("interventions_inserted", "interventions_updated", "interventions_deleted"):
            op.execute(f"DROP TRIGGER {name}")
        for name in ("requests_inserted", "requests_deleted"):
            op.execute(f"DROP TRIGGER {name}")
    for table in ("chores", "spools", "daily_count_deltas", "daily_counts"):
        op.drop_table(table)
    for name in _INDEXED:
        op.drop_index(f"ix_interventions_{name}", "interventions")
    op.drop_column("interventions", "text_bytes")
    op.drop_column("interventions", "stored_text")


# (kind, value, n) of one row, as SQL.
Rows = list[tuple[str, str, str]]
_KEY = ("day", "tenant", "mode", "kind", "value")


def _count_columns() -> list[sa.Column[Any]]:
    names = ("tenant", "mode", "kind", "value")
    texts: list[sa.Column[Any]] = [sa.Column(name, sa.Text, nullable=False) for name in names]
    return [sa.Column("day", sa.Integer, nullable=False), *texts, sa.Column("n", sa.BigInteger, nullable=False)]


# -- counting ---------------------------------------------------------------------------------------------------------
# Each row of `interventions` counts under every kind, for its tenant and for all tenants ("*").


def _kinds(row: str) -> Rows:
    return [
        ("'all'", "''", "1"),
        ("'outcome'", f"{row}.outcome", "1"),
        ("'category'", f"coalesce({row}.category, 'none')", "1"),
        ("'trigger'", f"coalesce({row}.trigger_id, 'none')", "1"),
        ("'review_state'", f"{row}.review_state", "1"),
        ("'bytes'", "''", f"{row}.text_bytes"),
    ]


def _halted(row: str) -> Rows:
    return [
        ("'request'", "'all'", "1"),
        ("'request'", "'halted'", f"CASE WHEN {row}.interventions > 0 THEN 1 ELSE 0 END"),
    ]


def _union(rows: Rows, others: Rows | None) -> str:
    """A table of what counts; with `others`, of what differs from there."""
    selects = []
    for number, (kind, value, n) in enumerate(rows):
        other = None if others is None else others[number]
        changed = "" if other is None else f" WHERE {value} <> {other[1]} OR {n} <> {other[2]}"
        selects.append(f"SELECT {kind} AS kind, {value} AS value, {n} AS n{changed}")
    return " UNION ALL ".join(selects)


def _sqlite_add(row: str, kinds: Rows, sign: int, others: Rows | None = None) -> str:
    return (
        f"INSERT INTO daily_counts (day, tenant, mode, kind, value, n) "
        f"SELECT {row}.created_us / {_DAY_US}, t.tenant, {row}.mode, k.kind, k.value, {sign} * k.n "
        f"FROM (SELECT '*' AS tenant UNION ALL SELECT {row}.tenant) AS t, ({_union(kinds, others)}) AS k WHERE true "
        "ON CONFLICT (day, tenant, mode, kind, value) DO UPDATE SET n = n + excluded.n;"
    )


def _postgres_add(row: str, kinds: Rows, sign: int, others: Rows | None = None) -> str:
    return (
        f"INSERT INTO daily_count_deltas (day, tenant, mode, kind, value, n) "
        f"SELECT {row}.created_us / {_DAY_US}, {row}.tenant, {row}.mode, k.kind, k.value, {sign} * k.n "
        f"FROM ({_union(kinds, others)}) AS k;"
    )


_COUNTED = "outcome, category, trigger_id, review_state, text_bytes"


def _sqlite_trigger(name: str, when: str, table: str, *statements: str) -> str:
    return f"CREATE TRIGGER {name} AFTER {when} ON {table} BEGIN {' '.join(statements)} END"


_OLD, _NEW = _kinds("old"), _kinds("new")
_SQLITE = [
    _sqlite_trigger("interventions_inserted", "INSERT", "interventions", _sqlite_add("new", _NEW, 1)),
    _sqlite_trigger("interventions_deleted", "DELETE", "interventions", _sqlite_add("old", _OLD, -1)),
    _sqlite_trigger(
        "interventions_updated",
        f"UPDATE OF {_COUNTED}",
        "interventions",
        _sqlite_add("old", _OLD, -1, _NEW),
        _sqlite_add("new", _NEW, 1, _OLD),
    ),
    _sqlite_trigger("requests_inserted", "INSERT", "requests", _sqlite_add("new", _halted("new"), 1)),
    _sqlite_trigger("requests_deleted", "DELETE", "requests", _sqlite_add("old", _halted("old"), -1)),
]


def _postgres_function(table: str, when: str, removed: Rows, added: Rows) -> list[str]:
    return [
        f"CREATE FUNCTION steer_count_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'INSERT' THEN {_postgres_add('new', added, 1)} "
        f"ELSIF TG_OP = 'DELETE' THEN {_postgres_add('old', removed, -1)} "
        f"ELSE {_postgres_add('old', removed, -1, added)} {_postgres_add('new', added, 1, removed)} END IF; "
        "RETURN NULL; END $$",
        f"CREATE TRIGGER {table}_counted AFTER {when} ON {table} FOR EACH ROW EXECUTE FUNCTION steer_count_{table}()",
    ]


_POSTGRES = [
    *_postgres_function("interventions", f"INSERT OR DELETE OR UPDATE OF {_COUNTED}", _OLD, _NEW),
    *_postgres_function("requests", "INSERT OR DELETE", _halted("old"), _halted("new")),
]


def _count_what_is_there() -> None:
    size = "octet_length(body)" if op.get_bind().dialect.name == "postgresql" else "length(CAST(body AS BLOB))"
    op.execute(
        "UPDATE interventions SET text_bytes = coalesce("
        f"(SELECT sum({size}) FROM intervention_texts WHERE intervention_id = interventions.id), 0)"
    )
    for table, kinds in (("interventions", _kinds("r")), ("requests", _halted("r"))):
        for kind, value, n in kinds:
            for tenant in ("'*'", "r.tenant"):
                op.execute(
                    sa.text(
                        f"INSERT INTO daily_counts (day, tenant, mode, kind, value, n) "
                        f"SELECT r.created_us / {_DAY_US}, {tenant}, r.mode, {kind}, {value}, sum({n}) "
                        f"FROM {table} AS r GROUP BY 1, 2, 3, 4, 5"
                    )
                )

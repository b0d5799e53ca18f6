"""What the log keeps beside interventions: counts by day, replayed spools, periodic chores.

Counts are kept by database triggers, so that whoever writes a row, by whatever path, changes them in one transaction.
SQLite adds them up at once. On PostgreSQL two proxies would wait for each other's rows, so a trigger there only appends
a row to `daily_count_deltas`, which `proxy/log/counters.py` folds into `daily_counts` now and then.
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
    op.create_table(
        "daily_counts",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("scope", "mode", "kind", "value")),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("scope", "day", "mode", "kind", "value", name="pk_daily_counts"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "daily_count_deltas",
        sa.Column("day", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("tenant", "model", "mode")),
        *(sa.Column(name, sa.Text) for name in ("adapter", "outcome", "category", "trigger_id", "review_state")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("n", "bytes", "requests", "halted")),
    )
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


# -- counting ---------------------------------------------------------------------------------------------------------
# Each row of `interventions` counts under every kind (a value of a column), in every scope: all rows ("*"), and those
# that share the value of one column with it ("o=refused"). Rows of `requests` count likewise.

_COUNTED = "outcome, category, trigger_id, review_state, text_bytes"


def _or_none(column: str) -> str:
    return f"coalesce({column}, 'none')"


def _scopes(row: str) -> list[str]:
    return [
        "'*'", f"'t=' || {row}.tenant", f"'m=' || {row}.model", f"'a=' || {_or_none(f'{row}.adapter')}",
        f"'o=' || {row}.outcome", f"'c=' || {_or_none(f'{row}.category')}", f"'g=' || {_or_none(f'{row}.trigger_id')}",
        f"'r=' || {row}.review_state",
    ]  # fmt: skip


def _kinds(row: str) -> list[tuple[str, str, str]]:
    """(kind, value, n)."""
    return [
        ("all", "''", "1"),
        ("outcome", f"{row}.outcome", "1"),
        ("category", _or_none(f"{row}.category"), "1"),
        ("trigger", _or_none(f"{row}.trigger_id"), "1"),
        ("review_state", f"{row}.review_state", "1"),
        ("bytes", "''", f"{row}.text_bytes"),
    ]


def _request_scopes(row: str) -> list[str]:
    return _scopes(row)[:3]


def _request_kinds(row: str) -> list[tuple[str, str, str]]:
    return [("request", "'all'", "1"), ("request", "'halted'", f"CASE WHEN {row}.interventions > 0 THEN 1 ELSE 0 END")]


def _sqlite_add(row: str, other: str | None, sign: int, of: tuple[Any, Any] = (_scopes, _kinds)) -> str:
    """Counts a row; with `other`, its state before or after, only what differs between the two."""
    scopes, kinds = of
    theirs = (scopes(other or row), kinds(other or row))
    is_new = 0 if other else 1
    s = " UNION ALL ".join(
        f"SELECT {mine} AS scope, {is_new} OR {mine} <> {its} AS changed"
        for mine, its in zip(scopes(row), theirs[0], strict=True)
    )
    k = " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, {value} AS value, {n} AS n, "
        f"{is_new} OR {value} <> {its[1]} OR {n} <> {its[2]} AS changed"
        for (kind, value, n), its in zip(kinds(row), theirs[1], strict=True)
    )
    return (
        "INSERT INTO daily_counts (scope, day, mode, kind, value, n) "
        f"SELECT s.scope, {row}.created_us / {_DAY_US}, {row}.mode, k.kind, k.value, {sign} * k.n "
        f"FROM ({s}) AS s, ({k}) AS k WHERE (s.changed OR k.changed) AND (k.kind <> 'bytes' OR s.scope = '*') "
        "ON CONFLICT (scope, day, mode, kind, value) DO UPDATE SET n = n + excluded.n;"
    )


def _sqlite_trigger(name: str, when: str, table: str, *statements: str) -> str:
    return f"CREATE TRIGGER {name} AFTER {when} ON {table} BEGIN {' '.join(statements)} END"


_OF_REQUESTS = (_request_scopes, _request_kinds)
_SQLITE = [
    _sqlite_trigger("interventions_inserted", "INSERT", "interventions", _sqlite_add("new", None, 1)),
    _sqlite_trigger("interventions_deleted", "DELETE", "interventions", _sqlite_add("old", None, -1)),
    _sqlite_trigger(
        "interventions_updated",
        f"UPDATE OF {_COUNTED}",
        "interventions",
        _sqlite_add("old", "new", -1),
        _sqlite_add("new", "old", 1),
    ),
    _sqlite_trigger("requests_inserted", "INSERT", "requests", _sqlite_add("new", None, 1, _OF_REQUESTS)),
    _sqlite_trigger("requests_deleted", "DELETE", "requests", _sqlite_add("old", None, -1, _OF_REQUESTS)),
]


def _postgres_add(table: str, row: str, sign: int) -> str:
    if table == "interventions":
        texts = ", ".join(
            f"{row}.{name}" if name in ("outcome", "review_state") else _or_none(f"{row}.{name}")
            for name in ("adapter", "outcome", "category", "trigger_id", "review_state")
        )
        numbers = f"{sign}, {sign} * {row}.text_bytes, 0, 0"
    else:
        texts = "NULL, NULL, NULL, NULL, NULL"
        numbers = f"0, 0, {sign}, CASE WHEN {row}.interventions > 0 THEN {sign} ELSE 0 END"
    return (
        "INSERT INTO daily_count_deltas (day, tenant, model, mode, adapter, outcome, category, trigger_id, "
        "review_state, n, bytes, requests, halted) "
        f"VALUES ({row}.created_us / {_DAY_US}, {row}.tenant, {row}.model, {row}.mode, {texts}, {numbers});"
    )


def _postgres_function(table: str, when: str) -> list[str]:
    return [
        f"CREATE FUNCTION steer_count_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP <> 'INSERT' THEN {_postgres_add(table, 'old', -1)} END IF; "
        f"IF TG_OP <> 'DELETE' THEN {_postgres_add(table, 'new', 1)} END IF; RETURN NULL; END $$",
        f"CREATE TRIGGER {table}_counted AFTER {when} ON {table} FOR EACH ROW EXECUTE FUNCTION steer_count_{table}()",
    ]


_POSTGRES = [
    *_postgres_function("interventions", f"INSERT OR DELETE OR UPDATE OF {_COUNTED}"),
    *_postgres_function("requests", "INSERT OR DELETE"),
]


def _count_what_is_there() -> None:
    size = "octet_length(body)" if op.get_bind().dialect.name == "postgresql" else "length(CAST(body AS BLOB))"
    op.execute(
        "UPDATE interventions SET text_bytes = coalesce("
        f"(SELECT sum({size}) FROM intervention_texts WHERE intervention_id = interventions.id), 0)"
    )
    for table, scopes, kinds in (
        ("interventions", _scopes("r"), _kinds("r")),
        ("requests", _request_scopes("r"), _request_kinds("r")),
    ):
        for scope in scopes:
            for kind, value, n in kinds:
                if kind != "bytes" or scope == "'*'":
                    statement = (
                        "INSERT INTO daily_counts (scope, day, mode, kind, value, n) "
                        f"SELECT {scope}, r.created_us / {_DAY_US}, r.mode, '{kind}', {value}, sum({n}) "
                        f"FROM {table} AS r GROUP BY 1, 2, 3, 5"
                    )
                    op.execute(sa.text(statement))

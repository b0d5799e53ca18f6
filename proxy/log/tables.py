"""The log's tables as the code of today sees them; `migrations/` brings a database there, step by step.

Columns are what one filters and counts by. **All user text is in `intervention_texts.body`** and nowhere else, so that
retention, deletion and encryption have one place to go to. Times are microseconds since the epoch (UTC): one integer
type that sorts and compares alike in SQLite and PostgreSQL.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

interventions = Table(
    "interventions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("request_id", Text, nullable=False, index=True),
    Column("choice", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("mode", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("adapter", Text),
    Column("policy_hash", Text, nullable=False),
    Column("detector_hash", Text, nullable=False),
    Column("trigger_id", Text),
    Column("channel", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("category", Text),
    Column("outcome", Text, nullable=False),
    Column("finish_reason", Text),
    Column("review_state", Text, nullable=False),
    Column("halted_ms", Float, nullable=False),
    Column("verdict_ms", Float),
    Column("resumed_ms", Float),
    Column("ended_ms", Float),
    Column("discarded_tokens", Integer),
    # None: no completion has been written (also where the outcome says "interrupted").
    Column("completed_us", BigInteger),
    # Who will complete the row. None: nobody (imported, complete at once).
    Column("owner_id", Text),
    # What is kept of its text: full, redacted or none (never stored, or deleted since).
    Column("stored_text", Text, nullable=False, server_default="full"),
    Column("text_bytes", BigInteger, nullable=False, server_default="0"),
    # How the trigger was drawn: the selection table (None: the fixed pool), and with which probability.
    Column("trigger_snapshot", Text),
    Column("trigger_probability", Float),
    Index("ix_interventions_created", "created_us", "id"),
    Index("ix_interventions_tenant", "tenant", "created_us"),
    Index("ix_interventions_outcome", "outcome", "created_us"),
    Index("ix_interventions_review", "review_state", "created_us"),
    Index("ix_interventions_review_score", "review_state", "score"),
    Index("ix_interventions_tenant_review", "tenant", "review_state", "score"),
    Index("ix_interventions_category", "category", "created_us"),
    Index("ix_interventions_trigger_id", "trigger_id", "created_us"),
    Index("ix_interventions_model", "model", "created_us"),
    Index("ix_interventions_adapter", "adapter", "created_us"),
    Index("ix_interventions_mode", "mode", "created_us"),
    # Whole: what a score chooses is counted from the index alone.
    Index(
        "ix_interventions_score",
        "score",
        "tenant",
        "model",
        "mode",
        "adapter",
        "outcome",
        "category",
        "trigger_id",
        "review_state",
    ),
)
# Few rows are open at a time; the sweep for rows that a crash left open must not scan a million others.
Index(
    "ix_interventions_open",
    interventions.c.owner_id,
    sqlite_where=interventions.c.outcome == "open",
    postgresql_where=interventions.c.outcome == "open",
)

# Two parts, written once each: "halt" at the halt, "completion" at the end. Nothing is rewritten, so neither half can
# damage the other.
intervention_texts = Table(
    "intervention_texts",
    metadata,
    Column("intervention_id", Text, ForeignKey("interventions.id", ondelete="CASCADE"), nullable=False),
    Column("part", Text, nullable=False),
    Column("body", Text, nullable=False),  # JSON
    PrimaryKeyConstraint("intervention_id", "part"),
)

# One row a request, halted or not: what rates are computed from. No text.
requests = Table(
    "requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False, index=True),
    Column("outcome", Text, nullable=False),
    Column("segments", Integer, nullable=False),
    Column("interventions", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("discarded_tokens", Integer, nullable=False),
    Column("duration_ms", Float, nullable=False),
)

# Processes that write to this log; `owners.py` says how a dead one is told from a living one.
owners = Table(
    "owners",
    metadata,
    Column("owner_id", Text, primary_key=True),
    Column("boot", Text, nullable=False),
    Column("pid_space", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_started", Text, nullable=False),
    Column("heartbeat_us", BigInteger, nullable=False),
)


# Rows of `interventions` and `requests` by day, kept by triggers of the database (migration 0002); `counters.py` reads
# them. A migration that makes either table anew must make its triggers anew. Day, tenant, model, adapter and mode of a
# row are final.
daily_counts = Table(
    "daily_counts",
    metadata,
    *(Column(name, Text, nullable=False) for name in ("scope", "mode", "kind", "value")),
    Column("day", Integer, nullable=False),  # since the epoch
    Column("n", BigInteger, nullable=False),
    PrimaryKeyConstraint("scope", "day", "mode", "kind", "value"),
    sqlite_with_rowid=False,
)
daily_count_deltas = Table(
    "daily_count_deltas",
    metadata,
    Column("day", Integer, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("tenant", "model", "mode")),
    *(Column(name, Text) for name in ("adapter", "outcome", "category", "trigger_id", "review_state")),
    *(Column(name, BigInteger, nullable=False) for name in ("n", "bytes", "requests", "halted")),
)

# How many of a day share all of these columns; `cells.py` reads them (migration 0006).
daily_cells = Table(
    "daily_cells",
    metadata,
    Column("day", Integer, nullable=False),
    *(
        Column(name, Text, nullable=False)
        for name in ("tenant", "model", "mode", "adapter", "outcome", "category", "trigger_id", "review_state")
    ),
    *(Column(name, BigInteger, nullable=False) for name in ("n", "requests", "halted")),
    PrimaryKeyConstraint(
        "day", "tenant", "model", "mode", "adapter", "outcome", "category", "trigger_id", "review_state"
    ),
    sqlite_with_rowid=False,
)
_IS_EMPTY = (daily_cells.c.n == 0) & (daily_cells.c.requests == 0)
Index("ix_daily_cells_empty", daily_cells.c.day, sqlite_where=_IS_EMPTY, postgresql_where=_IS_EMPTY)

# How far a spool file has been replayed; written in the transaction that replays it.
spools = Table(
    "spools",
    metadata,
    Column("spool_id", Text, primary_key=True),
    Column("replayed_bytes", BigInteger, nullable=False),
)

# What was purged and must not come back: a row that fits is left out by triggers before each insert (migration 0006).
# NULL asks for nothing; `before_us` is the moment of the purge, or what it was given. Kept for good: a spool may wait.
purges = Table(
    "purges",
    metadata,
    Column("id", Text, primary_key=True),
    Column("request_id", Text, index=True),
    Column("tenant", Text),
    Column("before_us", BigInteger),
)

# When a periodic chore was last done, by whichever process; and the log's own id, which is drawn once (`replay.py`).
chores = Table(
    "chores",
    metadata,
    Column("name", Text, primary_key=True),
    Column("done_us", BigInteger, nullable=False),
)

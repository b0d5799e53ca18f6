"""Tables of adaptive triggers, in the log's own database: every proxy and job that shares it sees the same.

No user text is kept here: a trigger's wording is a setting, shown to whoever is halted.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from proxy.log.tables import metadata

# One row a wording, never deleted: that is what keeps an id from being given to another text.
# `state`: proposed, approved (in use), rejected, retired. `origin`: settings, mined, person.
triggers = Table(
    "triggers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("origin", Text, nullable=False),
    Column("evidence", Text),  # JSON of what speaks for a mined one
    Column("proposed_by", Text, nullable=False),
    Column("settled_by", Text),
    Column("reason", Text),  # of the latest change of state
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
)

# Selection tables, each published whole and never changed. The newest is the one that proxies draw from.
trigger_snapshots = Table(
    "trigger_snapshots",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=True),
    Column("sha256", Text, nullable=False),
    Column("body", Text, nullable=False),  # JSON of steer.trigger_table.TriggerTable
    Column("made_by", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    sqlite_autoincrement=True,  # a version is never given twice, though old ones are deleted
)

# What independent judges say of what came after a trigger. `is_success` None: they can't tell.
trigger_verdicts = Table(
    "trigger_verdicts",
    metadata,
    Column("intervention_id", Text, ForeignKey("interventions.id", ondelete="CASCADE"), nullable=False),
    Column("judge", Text, nullable=False),
    Column("is_success", Boolean),
    Column("created_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("intervention_id", "judge"),
    Index("ix_trigger_verdicts_judge", "judge", "created_us"),
)

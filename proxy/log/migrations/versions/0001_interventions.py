"""Interventions and their texts, request counters, owners of open records."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "interventions",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("choice", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("adapter", sa.Text),
        sa.Column("policy_hash", sa.Text, nullable=False),
        sa.Column("detector_hash", sa.Text, nullable=False),
        sa.Column("trigger_id", sa.Text),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("category", sa.Text),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("review_state", sa.Text, nullable=False),
        sa.Column("halted_ms", sa.Float, nullable=False),
        sa.Column("verdict_ms", sa.Float),
        sa.Column("resumed_ms", sa.Float),
        sa.Column("ended_ms", sa.Float),
        sa.Column("discarded_tokens", sa.Integer),
        sa.Column("completed_us", sa.BigInteger),
        sa.Column("owner_id", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_interventions"),
    )
    op.create_index("ix_interventions_request_id", "interventions", ["request_id"])
    op.create_index("ix_interventions_created", "interventions", ["created_us", "id"])
    op.create_index("ix_interventions_tenant", "interventions", ["tenant", "created_us"])
    op.create_index("ix_interventions_outcome", "interventions", ["outcome", "created_us"])
    op.create_index("ix_interventions_review", "interventions", ["review_state", "created_us"])
    is_open = sa.text("outcome = 'open'")
    op.create_index(
        "ix_interventions_open", "interventions", ["owner_id"], sqlite_where=is_open, postgresql_where=is_open
    )
    op.create_table(
        "intervention_texts",
        sa.Column("intervention_id", sa.Text, nullable=False),
        sa.Column("part", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["intervention_id"],
            ["interventions.id"],
            name="fk_intervention_texts_intervention_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("intervention_id", "part", name="pk_intervention_texts"),
    )
    op.create_table(
        "requests",
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("segments", sa.Integer, nullable=False),
        sa.Column("interventions", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("discarded_tokens", sa.Integer, nullable=False),
        sa.Column("duration_ms", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name="pk_requests"),
    )
    op.create_index("ix_requests_created_us", "requests", ["created_us"])
    op.create_table(
        "owners",
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("boot", sa.Text, nullable=False),
        sa.Column("pid_space", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("pid_started", sa.Text, nullable=False),
        sa.Column("heartbeat_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", name="pk_owners"),
    )


def downgrade() -> None:
    for table in ("owners", "requests", "intervention_texts", "interventions"):
        op.drop_table(table)

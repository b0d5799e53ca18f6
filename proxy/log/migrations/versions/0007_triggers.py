"""Adaptive triggers: wordings, selection tables, judges' verdicts; and what a record says of how its own was drawn."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("interventions", sa.Column("trigger_snapshot", sa.Text))
    op.add_column("interventions", sa.Column("trigger_probability", sa.Float))
    op.create_table(
        "triggers",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("id", "kind", "text", "state", "origin")),
        sa.Column("evidence", sa.Text),
        sa.Column("proposed_by", sa.Text, nullable=False),
        sa.Column("settled_by", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("changed_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_triggers"),
    )
    op.create_index("ix_triggers_state", "triggers", ["state"])
    op.create_table(
        "trigger_snapshots",
        sa.Column("version", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("made_by", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_trigger_snapshots"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "trigger_verdicts",
        sa.Column("intervention_id", sa.Text, nullable=False),
        sa.Column("judge", sa.Text, nullable=False),
        sa.Column("is_success", sa.Boolean),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["intervention_id"],
            ["interventions.id"],
            name="fk_trigger_verdicts_intervention_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("intervention_id", "judge", name="pk_trigger_verdicts"),
    )
    op.create_index("ix_trigger_verdicts_judge", "trigger_verdicts", ["judge", "created_us"])


def downgrade() -> None:
    for table in ("trigger_verdicts", "trigger_snapshots", "triggers"):
        op.drop_table(table)
    op.drop_column("interventions", "trigger_probability")
    op.drop_column("interventions", "trigger_snapshot")

"""Adapter versions, routes, canaries, who uses what, and the lock of the bake."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "adapters",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("gate", sa.Text),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("changed_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapters"),
        sa.UniqueConstraint("name", "number", name="uq_adapters_name"),
    )
    op.create_index("ix_adapters_alias", "adapters", ["alias"])
    op.create_table(
        "adapter_routes",
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("champion", sa.Text),
        sa.Column("standby", sa.Text),
        sa.Column("candidate", sa.Text),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("is_off", sa.Boolean, nullable=False),
        sa.Column("canary_id", sa.Integer),
        sa.Column("changed_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("alias", name="pk_adapter_routes"),
    )
    op.create_table(
        "adapter_canaries",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("candidate", sa.Text, nullable=False),
        sa.Column("champion", sa.Text),
        sa.Column("promote_after", sa.Integer),
        sa.Column("looks", sa.Integer, nullable=False),
        sa.Column("began_us", sa.BigInteger, nullable=False),
        sa.Column("ended_us", sa.BigInteger),
        sa.Column("ending", sa.Text),
        *(
            sa.Column(f"{side}_{count}", sa.Integer, nullable=False)
            for side in ("candidate", "champion")
            for count in ("conversations", "halted", "failed")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_adapter_canaries"),
    )
    op.create_table(
        "adapter_events",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("adapter", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_adapter_events"),
    )
    op.create_table(
        "adapter_usage",
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("streams", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "adapter", name="pk_adapter_usage"),
    )
    op.create_table(
        "bake_locks",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("taken_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_bake_locks"),
    )


def downgrade() -> None:
    for table in (
        "bake_locks",
        "adapter_usage",
        "adapter_events",
        "adapter_canaries",
        "adapter_routes",
        "adapters",
    ):
        op.drop_table(table)

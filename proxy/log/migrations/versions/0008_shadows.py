"""Shadow mode: episodes, records of copies and their halts; and what each client had of a running canary."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_COVERED = (  # as in 0006
    "EXISTS (SELECT 1 FROM purges AS p WHERE (p.request_id IS NULL OR p.request_id = new.request_id) "
    "AND (p.tenant IS NULL OR p.tenant = new.tenant) AND (p.before_us IS NULL OR new.created_us < p.before_us))"
)


def upgrade() -> None:
    op.add_column("adapter_routes", sa.Column("shadow", sa.Text))
    op.add_column("adapter_routes", sa.Column("shadow_share", sa.Float))
    op.add_column("adapter_routes", sa.Column("shadow_id", sa.Integer))
    op.create_table(
        "adapter_canary_clients",
        sa.Column("canary_id", sa.Integer, nullable=False),
        sa.Column("side", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        *(sa.Column(count, sa.Integer, nullable=False) for count in ("conversations", "halted", "failed")),
        sa.PrimaryKeyConstraint("canary_id", "side", "client", name="pk_adapter_canary_clients"),
    )
    op.create_table(
        "adapter_shadows",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("champion", sa.Text),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("dropped", sa.Integer, nullable=False),
        sa.Column("began_us", sa.BigInteger, nullable=False),
        sa.Column("ended_us", sa.BigInteger),
        sa.Column("ending", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_adapter_shadows"),
    )
    op.create_index("ix_adapter_shadows_adapter", "adapter_shadows", ["adapter"])
    _records()
    _purged()


def _records() -> None:
    op.create_table(
        "shadow_records",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("shadow_id", sa.Integer, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("mode", "model", "adapter")),
        sa.Column("champion", sa.Text),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("policy_hash", "detector_hash", "outcome")),
        sa.Column("interventions", sa.Integer, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("duration_ms", sa.Float, nullable=False),
        sa.Column("champion_outcome", sa.Text),
        sa.Column("champion_interventions", sa.Integer),
        sa.Column("champion_tokens", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_shadow_records"),
    )
    op.create_index("ix_shadow_records_shadow_id", "shadow_records", ["shadow_id"])
    op.create_index("ix_shadow_records_request_id", "shadow_records", ["request_id"])
    op.create_index("ix_shadow_records_created", "shadow_records", ["created_us", "id"])
    op.create_index("ix_shadow_records_tenant", "shadow_records", ["tenant", "created_us"])
    op.create_table(
        "shadow_halts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("shadow_record_id", sa.Text, nullable=False),
        sa.Column("plain", sa.Text, nullable=False),
        sa.Column("halt", sa.Text, nullable=False),
        sa.Column("completion", sa.Text),
        sa.ForeignKeyConstraint(
            ["shadow_record_id"],
            ["shadow_records.id"],
            name="fk_shadow_halts_shadow_record_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_shadow_halts"),
    )
    op.create_index("ix_shadow_halts_shadow_record_id", "shadow_halts", ["shadow_record_id"])


def _purged() -> None:
    """What was purged does not come in as a copy either."""
    head = "CREATE TRIGGER shadow_records_purged BEFORE INSERT ON shadow_records"
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"{head} FOR EACH ROW EXECUTE FUNCTION steer_purged()")
    else:
        op.execute(f"{head} WHEN {_COVERED} BEGIN SELECT RAISE(IGNORE); END")


def downgrade() -> None:
    op.execute("UPDATE adapters SET state = 'registered' WHERE state = 'shadow'")
    for table in ("shadow_halts", "shadow_records", "adapter_shadows", "adapter_canary_clients"):
        op.drop_table(table)
    for column in ("shadow_id", "shadow_share", "shadow"):
        op.drop_column("adapter_routes", column)

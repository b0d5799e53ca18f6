"""Reviews, sampled traffic, second judges' verdicts and the audit trail."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _samples()
    _subjects()
    _audit()
    # What the queue looks for among a million records: those whose score is nearest to the threshold.
    op.create_index("ix_interventions_review_score", "interventions", ["review_state", "score"])
    op.create_index("ix_interventions_tenant_review", "interventions", ["tenant", "review_state", "score"])


def _samples() -> None:
    op.create_table(
        "samples",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("choice", sa.Integer, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("adapter", sa.Text),
        sa.Column("policy_hash", sa.Text, nullable=False),
        sa.Column("detector_hash", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.Text, nullable=False),
        sa.Column("segments", sa.Integer, nullable=False),
        sa.Column("max_score", sa.Float, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_samples"),
    )
    op.create_index("ix_samples_request_id", "samples", ["request_id"])
    op.create_index("ix_samples_created", "samples", ["created_us", "id"])
    op.create_index("ix_samples_tenant", "samples", ["tenant", "created_us"])
    op.create_index("ix_samples_state", "samples", ["state", "created_us"])
    op.create_table(
        "sample_texts",
        sa.Column("sample_id", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        _reference("sample_texts", "sample_id", "samples.id"),
        sa.PrimaryKeyConstraint("sample_id", name="pk_sample_texts"),
    )


def _subjects() -> None:
    op.create_table(
        "review_subjects",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("intervention_id", sa.Text),
        sa.Column("sample_id", sa.Text),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("is_disputed", sa.Boolean, nullable=False),
        sa.Column("second_disagrees", sa.Boolean, nullable=False),
        sa.Column("changed_us", sa.BigInteger, nullable=False),
        _reference("review_subjects", "intervention_id", "interventions.id"),
        _reference("review_subjects", "sample_id", "samples.id"),
        sa.PrimaryKeyConstraint("id", name="pk_review_subjects"),
    )
    for column in ("intervention_id", "sample_id"):
        op.create_index(f"ix_review_subjects_{column}", "review_subjects", [column], unique=True)
    op.create_index("ix_review_subjects_changed", "review_subjects", ["changed_us"])
    for name, column in (("second", "second_disagrees"), ("disputed", "is_disputed")):
        op.create_index(f"ix_review_subjects_{name}", "review_subjects", ["state", column, "changed_us"])
    op.create_table(
        "reviews",
        sa.Column("subject_id", sa.Text, nullable=False),
        sa.Column("reviewer", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("is_final", sa.Boolean, nullable=False),
        sa.Column("segment", sa.Integer),
        sa.Column("decided_us", sa.BigInteger, nullable=False),
        _reference("reviews", "subject_id", "review_subjects.id"),
        sa.PrimaryKeyConstraint("subject_id", "reviewer", name="pk_reviews"),
    )
    op.create_index("ix_reviews_decided", "reviews", ["decided_us"])
    op.create_index("ix_reviews_reviewer", "reviews", ["reviewer", "decided_us"])
    op.create_table(
        "review_texts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("subject_id", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("trigger_id", sa.Text),
        sa.Column("trigger_kind", sa.Text),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        _reference("review_texts", "subject_id", "review_subjects.id"),
        sa.PrimaryKeyConstraint("id", name="pk_review_texts"),
    )
    op.create_index("ix_review_texts_subject_id", "review_texts", ["subject_id"])
    op.create_index("ix_review_texts_state", "review_texts", ["kind", "state", "created_us"])
    op.create_table(
        "second_verdicts",
        sa.Column("subject_id", sa.Text, nullable=False),
        sa.Column("judge", sa.Text, nullable=False),
        sa.Column("harmful_request", sa.Boolean),
        sa.Column("unsafe_reasoning", sa.Boolean),
        sa.Column("unsafe_answer", sa.Boolean),
        sa.Column("refused", sa.Boolean),
        sa.Column("helped", sa.Boolean),
        sa.Column("disagrees", sa.Boolean, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        _reference("second_verdicts", "subject_id", "review_subjects.id"),
        sa.PrimaryKeyConstraint("subject_id", "judge", name="pk_second_verdicts"),
    )
    op.create_index("ix_second_verdicts_judge", "second_verdicts", ["judge", "created_us"])


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at_us", "audit", ["at_us"])
    op.create_index("ix_audit_subject", "audit", ["subject", "seq"])
    op.create_index("ix_audit_actor", "audit", ["actor", "seq"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "create function steer_audit_is_append_only() returns trigger language plpgsql as "
            "$$ begin raise exception 'the audit trail takes no changes'; end $$"
        )
        op.execute(
            "create trigger audit_is_append_only before update or delete or truncate on audit "
            "for each statement execute function steer_audit_is_append_only()"
        )
        return
    for act in ("update", "delete"):
        op.execute(
            f"create trigger audit_takes_no_{act} before {act} on audit "
            "begin select raise(abort, 'the audit trail takes no changes'); end"
        )


def _reference(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=f"fk_{table}_{column}", ondelete="CASCADE")


def downgrade() -> None:
    for name in ("tenant_review", "review_score"):
        op.drop_index(f"ix_interventions_{name}", "interventions")
    for table in (
        "audit",
        "second_verdicts",
        "review_texts",
        "reviews",
        "review_subjects",
        "sample_texts",
        "samples",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("drop function steer_audit_is_append_only()")

"""Tables of review, on the log's metadata. All user text is in `sample_texts.body` and `review_texts.body`.

Whatever hangs on an intervention or a sample goes with it when that row is deleted (cascades). The audit trail hangs on
nothing: it names ids and states, holds no text, and takes neither UPDATE nor DELETE (triggers of the migration).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from proxy.log.tables import metadata

# Choices that nothing halted, taken at random. `state`: unjudged, clear (a judge finds nothing), then as a review goes:
# unreviewed (a find: listed as a miss), confirmed, dismissed.
samples = Table(
    "samples",
    metadata,
    Column("id", Text, primary_key=True),
    Column("request_id", Text, nullable=False, index=True),
    Column("choice", Integer, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("mode", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("adapter", Text),
    Column("policy_hash", Text, nullable=False),
    Column("detector_hash", Text, nullable=False),
    Column("finish_reason", Text, nullable=False),
    Column("segments", Integer, nullable=False),
    Column("max_score", Float, nullable=False),
    Column("state", Text, nullable=False),
    Index("ix_samples_created", "created_us", "id"),
    Index("ix_samples_tenant", "tenant", "created_us"),
    Index("ix_samples_state", "state", "created_us"),
)

sample_texts = Table(
    "sample_texts",
    metadata,
    Column("sample_id", Text, ForeignKey("samples.id", ondelete="CASCADE"), primary_key=True),
    Column("body", Text, nullable=False),  # JSON
)

# One row for each intervention or sample that anybody has said anything of. `version` counts what was said: two people
# who decide at one time do not overwrite each other. `state` repeats that of the row it hangs on.
review_subjects = Table(
    "review_subjects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("intervention_id", Text, ForeignKey("interventions.id", ondelete="CASCADE"), unique=True, index=True),
    Column("sample_id", Text, ForeignKey("samples.id", ondelete="CASCADE"), unique=True, index=True),
    Column("tenant", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("is_disputed", Boolean, nullable=False),  # reviewers disagree, and nobody has settled it
    Column("second_disagrees", Boolean, nullable=False),  # a second judge contradicts what the detector did
    Column("changed_us", BigInteger, nullable=False),
    Index("ix_review_subjects_changed", "changed_us"),
    Index("ix_review_subjects_second", "state", "second_disagrees", "changed_us"),
    Index("ix_review_subjects_disputed", "state", "is_disputed", "changed_us"),
)

# One row for each reviewer of a subject: what stands. What stood before is in the audit trail.
reviews = Table(
    "reviews",
    metadata,
    Column("subject_id", Text, ForeignKey("review_subjects.id", ondelete="CASCADE"), nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("is_final", Boolean, nullable=False),  # a tie-break: settles the subject whatever others say
    Column("segment", Integer),  # of a sample: the segment that is the cue
    Column("decided_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("subject_id", "reviewer"),
    Index("ix_reviews_decided", "decided_us"),
    Index("ix_reviews_reviewer", "reviewer", "decided_us"),
)

# Notes, and wordings for a better trigger. `state`: noted; or proposed, approved, rejected.
review_texts = Table(
    "review_texts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subject_id", Text, ForeignKey("review_subjects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("author", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("trigger_id", Text),  # what an approved wording is called in a pool
    Column("trigger_kind", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Index("ix_review_texts_state", "kind", "state", "created_us"),
)

second_verdicts = Table(
    "second_verdicts",
    metadata,
    Column("subject_id", Text, ForeignKey("review_subjects.id", ondelete="CASCADE"), nullable=False),
    Column("judge", Text, nullable=False),
    Column("harmful_request", Boolean),
    Column("unsafe_reasoning", Boolean),
    Column("unsafe_answer", Boolean),
    Column("refused", Boolean),
    Column("helped", Boolean),
    Column("disagrees", Boolean, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("subject_id", "judge"),
    Index("ix_second_verdicts_judge", "judge", "created_us"),
)

# Who did what, when, what it changed. `before` and `after` are JSON of ids, states and numbers: never text of people.
audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at_us", BigInteger, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("tenant", Text),
    Column("before", Text),
    Column("after", Text),
    Index("ix_audit_subject", "subject", "seq"),
    Index("ix_audit_actor", "actor", "seq"),
    sqlite_autoincrement=True,  # a number is never given twice
)

"""Records of copies, beside the log's own and apart from them: what counts, reviews or trains never looks here.

`shadow_records` holds no text; that of halted copies is in `shadow_halts`, as far as log.store_text allows. What hangs
on a purged request, a tenant or an age goes with it (`proxy.log.purge`, `proxy.log.retention`).
"""

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, Table, Text

from proxy.log.tables import metadata

# One row a copy that was answered. `request_id` is the client's request; `outcome`: clear, halted or failed, and
# `champion_outcome` the same of the client's own answer; none: the client left before its end.
shadow_records = Table(
    "shadow_records",
    metadata,
    Column("id", Text, primary_key=True),
    Column("shadow_id", Integer, nullable=False, index=True),
    Column("request_id", Text, nullable=False, index=True),
    Column("tenant", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("client", Text, nullable=False),  # a hash; empty where clients can't be told apart
    Column("mode", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("adapter", Text, nullable=False),
    Column("champion", Text),
    Column("policy_hash", Text, nullable=False),
    Column("detector_hash", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("interventions", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("finish_reason", Text),
    Column("duration_ms", Float, nullable=False),
    Column("champion_outcome", Text),
    Column("champion_interventions", Integer),
    Column("champion_tokens", Integer),
    Index("ix_shadow_records_created", "created_us", "id"),
    Index("ix_shadow_records_tenant", "tenant", "created_us"),
)

# One row for each halt of a copy: an intervention record in parts. `plain` (JSON) holds no text.
shadow_halts = Table(
    "shadow_halts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("shadow_record_id", Text, ForeignKey("shadow_records.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("plain", Text, nullable=False),
    Column("halt", Text, nullable=False),
    Column("completion", Text),
)

"""Tables of adapters, beside the log's own and in its database: every proxy and job that shares the log sees the same.

No user text is kept here. Times are microseconds since the epoch, as everywhere in the log.
"""

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from proxy.log.tables import metadata

# One row a version, never deleted: that is what keeps a number from being given twice.
adapters = Table(
    "adapters",
    metadata,
    Column("id", Text, primary_key=True),  # name@number
    Column("name", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("alias", Text, nullable=False, index=True),
    Column("base_model", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),  # of the latest change of state
    Column("manifest", Text, nullable=False),  # JSON: parents by hash
    Column("gate", Text),  # JSON of the gate's decision; none: it never went through one
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    UniqueConstraint("name", "number", name="uq_adapters_name"),
)

adapter_routes = Table(
    "adapter_routes",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("base_model", Text, nullable=False),
    Column("champion", Text),
    Column("standby", Text),
    Column("candidate", Text),
    Column("weight", Float, nullable=False),
    Column("is_off", Boolean, nullable=False),
    Column("canary_id", Integer),
    Column("changed_us", BigInteger, nullable=False),
    Column("shadow", Text),
    Column("shadow_share", Float),
    Column("shadow_id", Integer),
)

# One row a canary: what both sides served while it ran. Proxies add to the counts.
adapter_canaries = Table(
    "adapter_canaries",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("alias", Text, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("champion", Text),
    Column("promote_after", Integer),  # conversations of the candidate; none: a person promotes
    Column("looks", Integer, nullable=False),
    Column("began_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("ending", Text),
    *(
        Column(f"{side}_{count}", Integer, nullable=False)
        for side in ("candidate", "champion")
        for count in ("conversations", "halted", "failed")
    ),
)

# Who did what, and why.
adapter_events = Table(
    "adapter_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at_us", BigInteger, nullable=False),
    Column("alias", Text, nullable=False),
    Column("adapter", Text),
    Column("action", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
)

# Streams that a living process of the log runs on a version: none is unloaded before the last has ended.
adapter_usage = Table(
    "adapter_usage",
    metadata,
    Column("owner_id", Text, nullable=False),
    Column("adapter", Text, nullable=False),
    Column("streams", Integer, nullable=False),
    PrimaryKeyConstraint("owner_id", "adapter", name="pk_adapter_usage"),
)

# Who bakes. A lock whose owner is no longer among the log's living ones is free.
bake_locks = Table(
    "bake_locks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("taken_us", BigInteger, nullable=False),
)

# What each client had of a running canary, where clients can be told apart; gone with its end. No names: a hash.
adapter_canary_clients = Table(
    "adapter_canary_clients",
    metadata,
    Column("canary_id", Integer, nullable=False),
    Column("side", Text, nullable=False),
    Column("client", Text, nullable=False),
    *(Column(count, Integer, nullable=False) for count in ("conversations", "halted", "failed")),
    PrimaryKeyConstraint("canary_id", "side", "client", name="pk_adapter_canary_clients"),
)

# One row for each time that a version answered copies. `dropped`: copies that were not made, or not to their end.
adapter_shadows = Table(
    "adapter_shadows",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("alias", Text, nullable=False),
    Column("adapter", Text, nullable=False, index=True),
    Column("champion", Text),
    Column("share", Float, nullable=False),
    Column("dropped", Integer, nullable=False),
    Column("began_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("ending", Text),
)

"""Tables of tenants and keys, in the intervention log's database and its migrations. Times as there: microseconds, UTC.

No key is kept: `keys.digest` is its SHA-256 (`proxy.access.keytext` says why that is enough).
"""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, Table, Text

from proxy.log.tables import metadata


def _limits() -> list[Column[int]]:
    """None: none of its own."""
    return [
        Column("requests_per_minute", Integer),
        Column("tokens_per_minute", Integer),
        Column("max_concurrent", Integer),
    ]


tenants = Table(
    "tenants",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_us", BigInteger, nullable=False),
    Column("policy", Text, nullable=False),  # JSON: overrides of the settings' policy section
    Column("may_train", Boolean, nullable=False),
    *_limits(),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, ForeignKey("tenants.name"), nullable=False),
    Column("role", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
    Column("last_used_us", BigInteger),  # to the minute
    Column("rotated_from", Text),
    *_limits(),
)

# One row, counted up by every change to the two tables above (not by last_used_us): what processes look at to know
# whether there is something to read.
access_version = Table(
    "access_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
)

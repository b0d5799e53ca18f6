"""Run by Alembic: migrates on the connection that `proxy/log/migrate.py` hands over, in its transaction."""

from alembic import context

import proxy.access.tables
import proxy.adapters.tables
import proxy.review.tables
import proxy.shadow.tables
import proxy.triggers.tables  # noqa: F401 - its tables join the metadata
from proxy.log.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()

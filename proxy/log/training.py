"""Which records may train: none of a tenant that opted out, none whose text is not whole."""

from collections.abc import Callable

from sqlalchemy import select

from proxy.access.tables import tenants
from proxy.log.reader import LogReader
from steer.record import InterventionRecord


async def may_train(reader: LogReader) -> Callable[[InterventionRecord], bool]:
    """As the log says at this moment. Raises LogError."""
    query = select(tenants.c.name).where(tenants.c.may_train.is_(False))
    opted_out = frozenset(await reader.read(lambda connection: connection.execute(query).scalars().all()))

    def fits(record: InterventionRecord) -> bool:
        has_text = bool(record.messages) and record.prompt_token_ids is not None
        return record.tenant not in opted_out and has_text

    return fits

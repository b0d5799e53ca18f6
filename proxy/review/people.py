"""Who is who among reviewers: keys of one name are one person's, and so is a key with those that it was rotated from.

An opinion is kept by key, as the trail has it; where opinions are counted, a person counts once.
"""

from collections.abc import Collection

from sqlalchemy import Connection, select

from proxy.access.tables import keys


def people(connection: Connection, reviewers: Collection[str]) -> dict[str, str]:
    """A word for the person behind each reviewer's key; "local" and the like are words of their own."""
    known: dict[str, tuple[str, str, str | None]] = {}
    wanted = {_key_id(reviewer) for reviewer in reviewers}
    while wanted:
        query = select(keys.c.id, keys.c.tenant, keys.c.name, keys.c.rotated_from).where(keys.c.id.in_(wanted))
        found = {row.id: (row.tenant, row.name.strip(), row.rotated_from) for row in connection.execute(query)}
        known |= found
        wanted = {before for _, _, before in found.values() if before is not None} - set(known)
    return {reviewer: _person(_key_id(reviewer), known) for reviewer in reviewers}


def _key_id(reviewer: str) -> str:
    """`Identity.actor` of who shows a key is "key:ID"."""
    return reviewer.removeprefix("key:")


def _person(key_id: str, known: dict[str, tuple[str, str, str | None]]) -> str:
    tenant, name, before = known.get(key_id, ("", "", None))
    if name:
        return f"{tenant}/{name.casefold()}"
    return key_id if before not in known or before is None else _person(before, known)

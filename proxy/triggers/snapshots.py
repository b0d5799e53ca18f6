"""Selection tables in the database: made from the log, published under a version, read by all. Never changed."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, func, select

from proxy.log.counters import DAY_US
from proxy.log.rows import microseconds, now_us
from proxy.review.audit import Actor
from proxy.settings import TriggerSettings
from proxy.triggers.changes import Settled, lock, settle
from proxy.triggers.errors import UnknownTrigger, WrongState
from proxy.triggers.evidence import tallies
from proxy.triggers.rows import TriggerRow, approved
from proxy.triggers.tables import trigger_snapshots
from steer.trigger_evidence import EvidenceRules, weigh
from steer.trigger_table import TriggerTable, make_table

# A new table that nobody could tell from the old one would only be one more.
LEAST_MOVE = 0.01
# Tables of some 20 kB: who needs one for longer (a bake) keeps it.
KEPT = 500


@dataclass(frozen=True, slots=True)
class Making:
    """How tables are made."""

    floor: float
    rules: EvidenceRules

    @classmethod
    def of(cls, settings: TriggerSettings) -> "Making":
        """As the settings say."""
        rules = EvidenceRules(
            settings.half_life_days, settings.tenant_daily, settings.tenant_total, settings.tenant_lead
        )
        return cls(settings.explore_floor, rules)


def newest_version(connection: Connection) -> int:
    """0: none was ever published."""
    return connection.execute(select(func.max(trigger_snapshots.c.version))).scalar() or 0


def read_table(connection: Connection, version: int | None = None) -> TriggerTable:
    """A version, or the newest. Raises UnknownTrigger; WrongState where there is none at all."""
    wanted = newest_version(connection) if version is None else version
    query = select(trigger_snapshots.c.body).where(trigger_snapshots.c.version == wanted)
    body = connection.execute(query).scalar()
    if body is None and version is None:
        raise WrongState("no selection table was ever made: `steer triggers refresh` makes one")
    if body is None:
        raise UnknownTrigger(f"there is no selection table {version}, or no longer: the newest {KEPT} are kept")
    return TriggerTable.model_validate_json(body).model_copy(update={"version": wanted})


def make(connection: Connection, making: Making, at: datetime) -> TriggerTable:
    """What the log asks for now, not published. Raises WrongState where no trigger is in use."""
    pool = approved(connection)
    if not pool:
        raise WrongState("no trigger is in use: start a proxy with triggers.adaptive = true, or approve one")
    today = microseconds(at) // DAY_US
    cells = weigh(tallies(connection, today, making.rules), today, making.rules)
    return make_table(pool, cells, floor=making.floor, rules=making.rules, made_at=at)


def refresh(connection: Connection, making: Making, by: str) -> tuple[TriggerTable, bool]:
    """The newest table, made anew where the log moves some share by LEAST_MOVE; and whether it was."""
    lock(connection)
    made = make(connection, making, datetime.now(UTC))
    if newest_version(connection):
        last = read_table(connection)
        if made.largest_move(last) < LEAST_MOVE:
            return last, False
    return _publish(connection, made, by), True


def settle_and_publish(
    connection: Connection, actor: Actor, id: str, state: Settled, reason: str | None, making: Making
) -> TriggerRow:
    """`settle`; where tables are in use, the next one with it, so that all proxies follow within seconds."""
    row = settle(connection, actor, id, state, reason)
    if state != "rejected" and newest_version(connection):
        refresh(connection, making, actor.id)
    return row


def _publish(connection: Connection, table: TriggerTable, by: str) -> TriggerTable:
    values = {
        "sha256": table.sha256, "body": table.model_dump_json(), "made_by": by, "created_us": now_us(),
    }  # fmt: skip
    version = connection.execute(trigger_snapshots.insert().returning(trigger_snapshots.c.version), values).scalar_one()
    connection.execute(delete(trigger_snapshots).where(trigger_snapshots.c.version <= version - KEPT))
    return table.model_copy(update={"version": version})

"""What becomes of a wording: proposed, approved, rejected, retired. Each change writes its entry into the audit trail.

Rules kept here: nothing is used before an operator approved it, except the pool of the settings, which is the
operator's own; an id never gets another text; two ids never have one text; the last trigger in use can't be retired.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, func, select

from proxy.log.rows import now_us
from proxy.review.audit import Actor, write_entry
from proxy.triggers.errors import BadTrigger, WrongState
from proxy.triggers.rows import Origin, TriggerRow, approved, read_trigger, read_triggers
from proxy.triggers.tables import triggers
from proxy.triggers.wording import same_wording
from steer.trigger_table import MAX_TRIGGERS
from steer.triggers import Trigger

_LOCK = 0x57EE2006  # any constant: the advisory lock that lets one change of the pool happen at a time
# Proposals that wait: beyond, somebody should look at them first.
MAX_PROPOSED = 1000

Settled = Literal["approved", "rejected", "retired"]
_FROM: Mapping[Settled, frozenset[str]] = {
    "approved": frozenset({"proposed", "rejected", "retired"}),
    "rejected": frozenset({"proposed"}),
    "retired": frozenset({"approved"}),
}
_ACTIONS: Mapping[Settled, str] = {
    "approved": "trigger.approve",
    "rejected": "trigger.reject",
    "retired": "trigger.retire",
}
# Who acts when a proxy starts.
PROXY = Actor("proxy", "operator")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A wording that has been checked (`proxy.triggers.wording`). `evidence`: what speaks for it."""

    trigger: Trigger
    origin: Origin = "person"
    evidence: dict[str, Any] | None = None


def propose(connection: Connection, actor: Actor, proposals: Sequence[Proposal]) -> list[str]:
    """All, or none: returns their ids. What is there already, word for word, is left as it is and not returned."""
    lock(connection)
    known = read_triggers(connection)
    written: list[str] = []
    waiting = sum(row.state == "proposed" for row in known)
    for proposal in proposals:
        if _is_known(proposal.trigger, known):
            continue
        if waiting + len(written) >= MAX_PROPOSED:
            raise WrongState(f"{MAX_PROPOSED} proposed triggers wait already: approve or reject some first")
        _insert(connection, proposal, "proposed", actor)
        known.append(read_trigger(connection, proposal.trigger.id))
        written.append(proposal.trigger.id)
        after = {"state": "proposed", "origin": proposal.origin, "kind": proposal.trigger.kind}
        write_entry(connection, actor, "trigger.propose", proposal.trigger.id, after=after)
    return written


def settle(connection: Connection, actor: Actor, id: str, state: Settled, reason: str | None = None) -> TriggerRow:
    """Approve, reject or retire one. Raises UnknownTrigger, WrongState."""
    lock(connection)
    row = read_trigger(connection, id, locks=True)
    if row.state not in _FROM[state]:
        raise WrongState(f"{id} is {row.state}: only what is {' or '.join(sorted(_FROM[state]))} can be {state}")
    in_use = len(approved(connection))
    if state == "retired" and in_use == 1:
        raise WrongState(f"{id} is the last trigger in use: approve another first")
    if state == "approved" and in_use >= MAX_TRIGGERS:
        raise WrongState(f"{MAX_TRIGGERS} triggers are in use, which is the most: retire one first")
    _move(connection, row, state, actor, reason)
    return read_trigger(connection, id)


def adopt_pool(connection: Connection, pool: Iterable[Trigger]) -> None:
    """The settings' own pool joins those in use; what has left the settings is retired. Raises BadTrigger.

    What somebody retired stays retired, and what somebody proposed under the same id and text is in use from now on.
    """
    lock(connection)
    known = {row.trigger.id: row for row in read_triggers(connection)}
    ids = set()
    for trigger in pool:
        ids.add(trigger.id)
        row = known.get(trigger.id)
        if row is None:
            _insert(connection, Proposal(trigger, "settings"), "approved", PROXY)
        elif row.trigger != trigger:
            raise BadTrigger(
                f"policy.triggers: {trigger.id} already names another text (or kind) in the log's database; "
                "choose another id"
            )
        elif row.state == "proposed" or row.reason == _LEFT:
            _move(connection, row, "approved", PROXY, "in policy.triggers")
    for id, row in known.items():
        if row.origin == "settings" and row.state == "approved" and id not in ids:
            _move(connection, row, "retired", PROXY, _LEFT)


_LEFT = "no longer in policy.triggers"


def lock(connection: Connection) -> None:
    """One change of the pool at a time; on SQLite a writer is alone anyhow."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _is_known(trigger: Trigger, known: Iterable[TriggerRow]) -> bool:
    """Word for word. Raises BadTrigger where an id or a text is taken by something else."""
    for row in known:
        if row.trigger == trigger:
            return True
        if row.trigger.id == trigger.id:
            raise BadTrigger(f"{trigger.id}: names another text already; choose another id")
        if same_wording(row.trigger.text, trigger.text):
            raise BadTrigger(f"{trigger.id}: {row.trigger.id} ({row.state}) says the same already")
    return False


def _insert(connection: Connection, proposal: Proposal, state: str, actor: Actor) -> None:
    at_us = now_us()
    values = proposal.trigger.model_dump() | {
        "state": state, "origin": proposal.origin, "proposed_by": actor.id, "created_us": at_us, "changed_us": at_us,
        "evidence": None if proposal.evidence is None else json.dumps(proposal.evidence, sort_keys=True),
    }  # fmt: skip
    connection.execute(triggers.insert(), values)


def _move(connection: Connection, row: TriggerRow, state: Settled, actor: Actor, reason: str | None) -> None:
    values = {"state": state, "settled_by": actor.id, "reason": reason, "changed_us": now_us()}
    connection.execute(triggers.update().where(triggers.c.id == row.trigger.id).values(**values))
    before, after = {"state": row.state}, {"state": state}
    write_entry(connection, actor, _ACTIONS[state], row.trigger.id, before=before, after=after)

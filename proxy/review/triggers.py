"""Wordings that reviewers propose for a better trigger: listed, approved or rejected. None is used by itself.

An approved wording gets an id and a kind, and can be printed as an entry of `policy.triggers`; putting it there is the
operator's act.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, select

from proxy.log.rows import moment
from proxy.log.texts import TextKeeper
from proxy.review.audit import Actor, write_entry
from proxy.review.errors import UnknownSubject, WrongDecision
from proxy.review.tables import review_subjects, review_texts
from steer.triggers import DEFAULT_TRIGGERS, Kind, Trigger

ProposalState = Literal["proposed", "approved", "rejected"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """One wording. `trigger_id` None: not approved."""

    id: str
    subject_id: str
    author: str
    state: str
    text: str
    created_at: datetime
    trigger_kind: str | None = None
    trigger_id: str | None = None


@dataclass(frozen=True, slots=True)
class Settling:
    """What becomes of a wording. `trigger_id`, and `kind` unless it was proposed with one: for an approval."""

    approves: bool
    trigger_id: str | None = None
    kind: Kind | None = None


def proposals(
    connection: Connection,
    keeper: TextKeeper,
    *,
    state: ProposalState | None = None,
    tenant: str | None = None,
    limit: int = 200,
) -> list[Proposal]:
    """Newest first. Raises TextLocked."""
    query = select(review_texts).where(review_texts.c.kind == "trigger").order_by(review_texts.c.created_us.desc())
    if state is not None:
        query = query.where(review_texts.c.state == state)
    if tenant is not None:
        query = query.join(review_subjects).where(review_subjects.c.tenant == tenant)
    rows = connection.execute(query.limit(limit)).mappings().all()
    return [
        Proposal(
            created_at=moment(row["created_us"]),
            text=keeper.open(row["body"]),
            **{name: row[name] for name in ("id", "subject_id", "author", "state", "trigger_kind", "trigger_id")},
        )
        for row in rows
    ]


def settle_proposal(
    connection: Connection,
    keeper: TextKeeper,
    actor: Actor,
    proposal_id: str,
    settling: Settling,
    tenant: str | None = None,
) -> None:
    """Approve under an id and a kind, or reject. `tenant`: the only one that is seen. Raises ReviewError."""
    is_it = (review_texts.c.id == proposal_id) & (review_texts.c.kind == "trigger")
    row = connection.execute(select(review_texts).where(is_it).with_for_update()).mappings().first()
    whose = None if row is None else _tenant(connection, row["subject_id"])
    if row is None or (tenant is not None and whose != tenant):
        raise UnknownSubject(f"no proposed trigger {proposal_id}: `steer review triggers` shows what there is")
    values: dict[str, str | None] = {"state": "rejected", "trigger_id": None}
    if settling.approves:
        kind = settling.kind or row["trigger_kind"]
        trigger = _trigger(connection, keeper.open(row["body"]), settling.trigger_id, kind, proposal_id)
        values = {"state": "approved", "trigger_id": trigger.id, "trigger_kind": trigger.kind}
    connection.execute(review_texts.update().where(is_it).values(**values))
    action = "review.approve_trigger" if settling.approves else "review.reject_trigger"
    before = {"id": proposal_id, "state": row["state"]}
    after = {"id": proposal_id, **values}
    write_entry(connection, actor, action, row["subject_id"], tenant=whose, before=before, after=after)


def _tenant(connection: Connection, subject_id: str) -> str:
    query = select(review_subjects.c.tenant).where(review_subjects.c.id == subject_id)
    return str(connection.execute(query).scalar_one())


def _trigger(connection: Connection, text: str, trigger_id: str | None, kind: str | None, proposal_id: str) -> Trigger:
    """The wording as a pool would take it. An id is never given to two texts: records name triggers by it."""
    if trigger_id is None or kind is None:
        raise WrongDecision("trigger_id and kind: an approved trigger needs both")
    try:
        made = Trigger.model_validate({"id": trigger_id, "kind": kind, "text": text})
    except ValueError as error:
        first = error.errors()[0] if hasattr(error, "errors") else {"loc": ("trigger",), "msg": str(error)}
        raise WrongDecision(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    query = select(review_texts.c.id).where(review_texts.c.trigger_id == trigger_id, review_texts.c.id != proposal_id)
    if trigger_id in {trigger.id for trigger in DEFAULT_TRIGGERS} or connection.execute(query).first() is not None:
        raise WrongDecision(f"trigger_id: {trigger_id} already names another text; choose another id")
    return made

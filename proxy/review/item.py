"""One subject with all that is known of it: its text, what a second judge says, what reviewers say.

Reviewers decide blindly: what others decided or noted is told to those who have decided themselves, and to those who
settle disputes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, select

from proxy.log.rows import moment
from proxy.log.texts import TextKeeper
from proxy.review.decisions import Subject, find_subject
from proxy.review.tables import review_subjects, review_texts, reviews, second_verdicts
from steer.review import SubjectKind


@dataclass(frozen=True, slots=True)
class Item:
    """`reviews` and `texts` hold one's own alone while `is_blind`; `num_reviews` counts all."""

    id: str
    kind: SubjectKind
    tenant: str
    state: str
    version: int
    is_disputed: bool
    is_blind: bool
    num_reviews: int
    reviews: list[dict[str, Any]]
    texts: list[dict[str, Any]]
    second_verdicts: list[dict[str, Any]]

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def read_item(
    connection: Connection, subject_id: str, reader: str, *, sees_all: bool, tenant: str | None, keeper: TextKeeper
) -> Item:
    """`reader` is who looks. Raises UnknownSubject, TextLocked."""
    subject = find_subject(connection, subject_id, tenant)
    of_all = [_review(row) for row in _rows(connection, reviews, subject)]
    is_blind = not sees_all and reader not in {review["reviewer"] for review in of_all}
    texts = [_text(row, keeper) for row in _rows(connection, review_texts, subject)]
    disputed = select(review_subjects.c.is_disputed).where(review_subjects.c.id == subject.id)
    return Item(
        id=subject.id,
        kind=subject.kind,
        tenant=subject.tenant,
        state=subject.state,
        version=subject.version,
        is_disputed=bool(connection.execute(disputed).scalar_one_or_none()),
        is_blind=is_blind,
        num_reviews=len(of_all),
        reviews=[review for review in of_all if not is_blind or review["reviewer"] == reader],
        texts=[text for text in texts if not is_blind or text["author"] == reader],
        second_verdicts=[_verdict(row) for row in _rows(connection, second_verdicts, subject)],
    )


def _rows(connection: Connection, table: Any, subject: Subject) -> list[Mapping[Any, Any]]:
    return list(connection.execute(select(table).where(table.c.subject_id == subject.id)).mappings())


def _review(row: Mapping[Any, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in ("reviewer", "decision", "is_final", "segment")}
    return told | {"decided_at": moment(row["decided_us"]).isoformat()}


def _text(row: Mapping[Any, Any], keeper: TextKeeper) -> dict[str, Any]:
    told = {name: row[name] for name in ("id", "author", "kind", "state", "trigger_id", "trigger_kind")}
    return told | {"created_at": moment(row["created_us"]).isoformat(), "text": keeper.open(row["body"])}


def _verdict(row: Mapping[Any, Any]) -> dict[str, Any]:
    said = ("judge", "harmful_request", "unsafe_reasoning", "unsafe_answer", "refused", "helped", "disagrees")
    return {name: row[name] for name in said} | {"created_at": moment(row["created_us"]).isoformat()}

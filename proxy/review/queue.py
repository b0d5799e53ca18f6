"""The queue: what waits for a decision, the most useful first, each with the reasons for its place.

A page goes on behind the last item of the one before, as of the moment of the first page: what is decided meanwhile
leaves; only what reviewers or a judge now disagree about moves up. What lies beyond the window (`candidates.py`) comes
up as the window empties.
"""

import json
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection

from proxy.log.errors import TextLocked
from proxy.log.rows import moment, now_us
from proxy.log.texts import TextKeeper
from proxy.review.candidates import Candidate, candidates, reviewed_lately, text_bodies
from proxy.review.errors import BadInput
from proxy.review.topics import Sketch, SketchCache, novelty, sketch
from proxy.review.usefulness import Facts, Usefulness, usefulness
from steer.review import SubjectKind

MAX_PAGE = 200
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Queued:
    """An item of a page."""

    candidate: Candidate
    usefulness: Usefulness


@dataclass(frozen=True, slots=True)
class QueuePage:
    """`next_cursor` None: the window holds no more."""

    items: list[Queued]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the queue. `tenant` None: of all."""

    reviewer: str
    threshold: float
    limit: int = 20
    cursor: str | None = None
    kind: SubjectKind | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page begins: behind this usefulness and id, as of this moment."""

    as_of_us: int
    score: float
    id: str


def queue(connection: Connection, asked: Asked, sketches: SketchCache, texts: TextKeeper) -> QueuePage:
    """One page. Raises BadInput for a limit or a cursor that can't be."""
    if not 1 <= asked.limit <= MAX_PAGE:
        raise BadInput(f"limit must be between 1 and {MAX_PAGE}")
    place = None if asked.cursor is None else _parse(asked.cursor)
    as_of_us = now_us() if place is None else place.as_of_us
    found = candidates(connection, asked.reviewer, threshold=asked.threshold, kind=asked.kind, tenant=asked.tenant)
    reviewed = reviewed_lately(connection, as_of_us)
    _learn(connection, [candidate.id for candidate in found] + reviewed, sketches, texts)
    known = [made for id in reviewed if (made := sketches.get(id))]
    ordered = sorted(
        (_queued(candidate, asked.threshold, as_of_us, sketches, known) for candidate in found), key=_order
    )
    if place is not None:
        ordered = [item for item in ordered if _order(item) > (-place.score, place.id)]
    page = ordered[: asked.limit]
    more = len(ordered) > len(page)
    cursor = f"{as_of_us}:{page[-1].usefulness.score}:{page[-1].candidate.id}" if page and more else None
    return QueuePage(page, cursor)


def _order(item: Queued) -> tuple[float, str]:
    return -item.usefulness.score, item.candidate.id


def _queued(
    candidate: Candidate, threshold: float, as_of_us: int, sketches: SketchCache, reviewed: list[Sketch]
) -> Queued:
    facts = Facts(
        score=candidate.score,
        threshold=threshold,
        is_disputed=candidate.is_disputed,
        second_disagrees=candidate.second_disagrees,
        novelty=novelty(sketches.get(candidate.id), reviewed),
        age_days=max(0.0, (moment(as_of_us) - candidate.created_at) / _DAY),
    )
    return Queued(candidate, usefulness(facts))


def _learn(connection: Connection, ids: list[str], sketches: SketchCache, texts: TextKeeper) -> None:
    """Sketches of those that are not known."""
    missing = sketches.missing(dict.fromkeys(ids))
    bodies = text_bodies(connection, missing)
    for id in missing:
        body = bodies.get(id)
        try:
            messages = [] if body is None else json.loads(texts.open(body))["messages"]
        except TextLocked:
            messages = []  # its place in the queue is told without it
        sketches.put(id, sketch(messages) if messages else None)


def _parse(cursor: str) -> _Place:
    as_of, _, rest = cursor.partition(":")
    score, separator, id = rest.partition(":")
    try:
        place = _Place(int(as_of), float(score), id)
    except ValueError:
        place = None
    if place is None or not separator or not 0 < place.as_of_us <= now_us():
        raise BadInput("cursor must be a page's next_cursor")
    return place

"""Review as one service: what the HTTP API and the command line both ask. Composition root of `proxy.review`.

Everything here takes the identity of who asks; whether that identity may ask at all is decided before (`proxy.access`).
"""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from proxy.access.identity import DEFAULT_TENANT, Identity
from proxy.access.roles import Role
from proxy.log.errors import UnknownIntervention
from proxy.log.reader import LogReader
from proxy.log.texts import TextKeeper
from proxy.review.audit import Actor
from proxy.review.decisions import Rules, Said, Saying, say
from proxy.review.errors import UnknownSubject, WrongDecision
from proxy.review.item import Item, read_item
from proxy.review.queue import Asked, QueuePage, queue
from proxy.review.sample import Sample
from proxy.review.samples import read_samples
from proxy.review.store import ReviewStore
from proxy.review.topics import SketchCache
from proxy.review.verdicts import unjudged
from steer.record import InterventionRecord
from steer.review import JudgedTrace, SubjectKind

_SETTLERS = frozenset({Role.OPERATOR, Role.ADMIN})


@dataclass(frozen=True, slots=True)
class Shown:
    """An item with its text. Both None: the text was never kept, or has been deleted."""

    item: Item
    record: InterventionRecord | None
    sample: Sample | None


@dataclass(frozen=True, slots=True)
class ReviewDesk:
    """`threshold`: above it scores are cues. `needed`: reviewers before a state is set."""

    store: ReviewStore
    reader: LogReader
    texts: TextKeeper
    threshold: float
    needed: int = 1
    sketches: SketchCache = field(default_factory=SketchCache)

    async def queue(
        self, who: Identity, *, limit: int = 20, cursor: str | None = None, kind: SubjectKind | None = None,
        tenant: str | None = None,
    ) -> QueuePage:  # fmt: skip
        """The next items for `who`. Raises BadInput, LogError."""
        asked = Asked(who.actor, self.threshold, limit, cursor, kind, scope_of(who) or tenant)
        return await self.store.read(lambda connection: queue(connection, asked, self.sketches, self.texts))

    async def show(self, who: Identity, subject_id: str) -> Shown:
        """One item. Raises ReviewError, LogError."""
        sees_all = who.role in _SETTLERS

        def read(connection: Connection) -> tuple[Item, list[Sample]]:
            item = read_item(
                connection, subject_id, who.actor, sees_all=sees_all, tenant=scope_of(who), keeper=self.texts
            )
            return item, read_samples(connection, [item.id], self.texts) if item.kind == "sample" else []

        item, samples = await self.store.read(read)
        record = None
        if item.kind == "intervention" and (record := await self._record(item.id)) is None:
            raise UnknownSubject(f"{item.id} has just been deleted")
        return Shown(item, record, samples[0] if samples else None)

    async def say(self, who: Identity, saying: Saying) -> Said:
        """Decide, note, propose. Raises ReviewError, LogError."""
        if saying.is_final and who.role not in _SETTLERS:
            raise WrongDecision("final: a tie-break is an operator's or an admin's")
        if who.role is Role.OPERATOR and not saying.is_final:
            raise WrongDecision("an operator's decision settles a dispute: say final = true")
        rules = Rules(self.texts, self.needed, scope_of(who))
        return await self.store.write(lambda connection: say(connection, actor_of(who), saying, rules))

    async def unjudged(
        self, who: Identity, kind: SubjectKind, judge: str | None, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[JudgedTrace], str | None]:
        """A page of what this judge (None: any judge) has not judged, and where the next begins. Raises LogError."""
        scope = scope_of(who)

        def read(connection: Connection) -> tuple[list[str], list[Sample]]:
            ids = unjudged(connection, kind, judge, after=after, limit=limit, tenant=scope)
            return ids, read_samples(connection, ids, self.texts) if kind == "sample" else []

        ids, samples = await self.store.read(read)
        traces = [sample.trace() for sample in samples]
        if kind == "intervention":
            records = [record for id in ids if (record := await self._record(id)) is not None]
            traces = [trace_of(record) for record in records if record.messages]
        return traces, ids[-1] if len(ids) == limit else None

    async def _record(self, id: str) -> InterventionRecord | None:
        """None where it was deleted since it was listed."""
        try:
            return await self.reader.get(id)
        except UnknownIntervention:
            return None


def actor_of(who: Identity) -> Actor:
    """As the audit trail writes it down."""
    return Actor(who.actor, str(who.role))


def scope_of(who: Identity) -> str | None:
    """The only tenant that is seen; None: all. Keys of the operator's own tenant see every tenant."""
    return None if who.tenant == DEFAULT_TENANT else who.tenant


def trace_of(record: InterventionRecord) -> JudgedTrace:
    """What was halted, as a judge is shown it: up to where the engine was stopped, without the trigger."""
    said = record.kept.text + record.rejected.text
    is_reasoning = record.channel == "reasoning"
    return JudgedTrace(
        id=record.id,
        kind="intervention",
        tenant=record.tenant,
        model=record.model,
        detector_hash=record.detector_hash,
        created_at=record.created_at,
        max_score=record.score,
        messages=record.messages,
        reasoning=said if is_reasoning else "",
        answer="" if is_reasoning else said,
    )


def record_json(record: InterventionRecord) -> dict[str, Any]:
    """As JSON."""
    return record.model_dump(mode="json")

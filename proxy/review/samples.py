"""Samples in the database: written, read, and forgotten once they are old and nobody found anything in them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from proxy.log.rows import microseconds, moment, now_us
from proxy.log.sql import insert_once
from proxy.log.texts import TextKeeper
from proxy.review.decisions import CLEAR, UNJUDGED
from proxy.review.sample import Sample, SampleText
from proxy.review.store import ReviewStore
from proxy.review.tables import review_subjects, reviews, sample_texts, samples
from proxy.review.verdicts import opted_out
from steer.record import InterventionRecord

_DAY_US = 86_400_000_000
# Old samples that a write takes away with it: more than it adds, so that they die out; few, so that it stays short.
_SWEPT = 8
_COLUMNS = (
    "id", "request_id", "choice", "tenant", "mode", "model", "adapter", "policy_hash", "detector_hash", "finish_reason",
    "state", "max_score",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SampleKeeper:
    """Writes samples. `keep_days`: for how long those stay in which nothing was found."""

    store: ReviewStore
    texts: TextKeeper
    keep_days: float

    async def keep(self, sample: Sample) -> None:
        """Write one, redacted; some old ones go. Raises LogError, ValueError where it can't be redacted."""
        await self.store.write(lambda connection: self._write(connection, self._redacted(sample)))

    def _redacted(self, sample: Sample) -> Sample:
        try:
            return sample.model_copy(update={"text": sample.text.redacted(self.texts.cleaned)})
        except Exception as error:  # noqa: BLE001 - log.redact is somebody else's code
            raise ValueError(f"log.redact failed ({type(error).__name__})") from None

    def _write(self, connection: Connection, sample: Sample) -> None:
        put_sample(connection, sample, self.texts)
        oldest = now_us() - int(self.keep_days * _DAY_US)
        old = select(samples.c.id).where(samples.c.state.in_((UNJUDGED, CLEAR)), samples.c.created_us < oldest)
        connection.execute(samples.delete().where(samples.c.id.in_(old.limit(_SWEPT))))


def put_sample(connection: Connection, sample: Sample, keeper: TextKeeper) -> None:
    """A sample of the same id is left as it is."""
    values = {name: getattr(sample, name) for name in _COLUMNS}
    values |= {"created_us": microseconds(sample.created_at), "segments": len(sample.text.segments)}
    if insert_once(connection, samples, values):
        connection.execute(sample_texts.insert(), {"sample_id": sample.id, "body": keeper.seal(_body(sample.text))})


def read_samples(connection: Connection, ids: Sequence[str], keeper: TextKeeper) -> list[Sample]:
    """Whole, in the order asked for; those that are gone, or whose text is, are left out. Raises TextLocked."""
    query = select(samples, sample_texts.c.body).join(sample_texts).where(samples.c.id.in_(ids))
    found = {}
    for row in connection.execute(query).mappings():
        fields = {name: row[name] for name in _COLUMNS}
        text = SampleText.model_validate(json.loads(keeper.open(row["body"])))
        found[row["id"]] = Sample(created_at=moment(row["created_us"]), text=text, **fields)
    return [found[id] for id in ids if id in found]


def confirmed_misses(
    connection: Connection, keeper: TextKeeper, *, after: str | None, limit: int
) -> tuple[list[InterventionRecord], str | None]:
    """A page in order of id, and where the next begins: the halts that should have been, at the cues that were named.
    None of tenants whose traffic is not trained on."""
    query = select(samples.c.id).where(samples.c.state == "confirmed", samples.c.tenant.not_in(opted_out()))
    query = query.order_by(samples.c.id).limit(limit)
    if after is not None:
        query = query.where(samples.c.id > after)
    ids = list(connection.execute(query).scalars())
    named = _segments(connection, ids)
    records = [sample.record(named.get(sample.id)) for sample in read_samples(connection, ids, keeper)]
    return records, ids[-1] if len(ids) == limit else None


def _segments(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    """The segment that the last of those who confirmed named; a tie-break's before all others."""
    query = (
        select(reviews.c.subject_id, reviews.c.segment)
        .join(review_subjects)
        .where(reviews.c.subject_id.in_(ids), reviews.c.segment.is_not(None))
        .where(reviews.c.decision == "confirmed")
        .order_by(reviews.c.is_final, reviews.c.decided_us)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _body(text: SampleText) -> str:
    """JSON; a lone surrogate, which a client may send as an escape, stays one."""
    values = text.model_dump(mode="python")
    try:
        made = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        made.encode()
    except UnicodeEncodeError:
        made = json.dumps(values, separators=(",", ":"))
    return made

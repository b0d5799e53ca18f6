"""A log with records and samples of inert text, and people who review it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.access.identity import Identity
from proxy.access.roles import Role
from proxy.log import InterventionLog
from proxy.log.texts import TextKeeper
from proxy.review.decisions import Said, Saying
from proxy.review.desk import ReviewDesk
from proxy.review.sample import Sample, SampleText, ScoredSegment
from proxy.review.samples import put_sample
from proxy.review.store import ReviewStore
from steer.record import InterventionRecord
from tests.proxy.log_records import completion

ANN, BEN, CLEO = (Identity("default", Role.REVIEWER, key_id=name) for name in ("ann", "ben", "cleo"))
OPERATOR = Identity("default", Role.OPERATOR, key_id="opal")
ADMIN = Identity("default", Role.ADMIN, key_id="adam")
OTHERS = Identity("acme", Role.REVIEWER, key_id="otto")
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Opened:
    """A log that proxies write to, and its desk."""

    log: InterventionLog
    desk: ReviewDesk

    async def insert(self, *records: InterventionRecord) -> None:
        """Each complete."""
        for item in records:
            await self.log.insert(item.completed(completion()))

    async def sample(self, *samples: Sample) -> None:
        def write(connection: Any) -> None:
            for item in samples:
                put_sample(connection, item, self.desk.texts)

        await self.desk.store.write(write)

    async def decide(self, who: Identity, id: str, decision: str | None, **more: Any) -> Said:
        """At today's version."""
        version = (await self.desk.show(who, id)).item.version
        return await self.desk.say(who, Saying(id, version, decision, **more))

    async def state(self, id: str) -> str:
        return (await self.log.get(id)).review_state


@asynccontextmanager
async def opened(log_url: str, *, needed: int = 1, texts: TextKeeper | None = None) -> AsyncIterator[Opened]:
    keeper = texts or TextKeeper()
    async with InterventionLog.open(log_url) as log, ReviewStore.open(log_url) as store:
        yield Opened(log, ReviewDesk(store, log, keeper, threshold=0.5, needed=needed))


def sample(id: str = "s-1", **changes: Any) -> Sample:
    """Three sentences of one token each and an answer; the second sentence scored the most."""
    sentences = ["Okay then.", " I will plan it.", " So the steps."]
    ends = [sum(map(len, sentences[: n + 1])) for n in range(3)]
    scores = [0.1, 0.4, 0.2]
    text = SampleText(
        messages=[{"role": "user", "content": "placeholder request"}],
        parts=[("reasoning", "".join(sentences)), ("answer", "Here.")],
        prompt_token_ids=[1, 2, 3],
        events=[(0, [9]), *((len(sentence), [10 + n]) for n, sentence in enumerate(sentences)), (5, [20, 21])],
        segments=[ScoredSegment("reasoning", ends[n] - len(sentences[n]), ends[n], scores[n]) for n in range(3)],
    )
    fields: dict[str, Any] = {
        "id": id,
        "request_id": f"r-{id}",
        "choice": 0,
        "tenant": "default",
        "created_at": START + timedelta(minutes=1),
        "mode": "hold",
        "model": "lrm",
        "policy_hash": "p",
        "detector_hash": "d",
        "finish_reason": "stop",
        "max_score": 0.4,
        "text": text,
    }
    return Sample(**(fields | changes))

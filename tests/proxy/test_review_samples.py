"""Sampled traffic: drawn at random, never in a stream's way, and kept as privately as all other text."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection, text

from proxy.cut import LegTokens
from proxy.log import InterventionLog
from proxy.log.cipher import Cipher, new_key
from proxy.log.connect import open_engine, parse_url
from proxy.log.errors import LogUnavailable
from proxy.log.purge import carry_out, ids_of
from proxy.log.purges import Purge
from proxy.log.retention import forget
from proxy.log.texts import TextKeeper
from proxy.records import Origin, Transcript
from proxy.review.api import shown_json
from proxy.review.decisions import Saying
from proxy.review.files import export_misses
from proxy.review.sample import Sample
from proxy.review.samples import SampleKeeper, read_samples
from proxy.review.sampling import Sampler
from proxy.review.store import ReviewStore
from steer.events import Classify
from steer.record import InterventionRecord
from tests.proxy.log_records import record
from tests.proxy.review_desk import ANN, opened, sample

pytestmark = pytest.mark.anyio


class HeldKeeper:
    """Keeps nothing before it is let go; then what it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.kept: list[Sample] = []
        self.free = anyio.Event()
        self._error = error

    async def keep(self, sample: Sample) -> None:
        await self.free.wait()
        if self._error is not None:
            raise self._error
        self.kept.append(sample)


def counter() -> Counter:
    return Counter("samples", "by result", ["result"], registry=CollectorRegistry())


def sampler_of(keeper: Any, results: Counter, **changes: Any) -> Sampler:
    return Sampler(keeper, results, **({"share": 1.0, "max_chars": 1000, "per_hour": 1000} | changes))


def ended(sampler: Sampler, said: str = "Okay. Then.", answer: str = "Fine.") -> None:
    """A choice ends untouched."""
    origin = Origin("r", 0, "default", "lrm", "hold", "p", "d", [{"role": "user", "content": "q"}], None, {})
    transcript, tokens = Transcript(origin, (), time.monotonic()), LegTokens(frozenset({1, 2}))
    transcript.prompt_ids = [7]
    for channel, piece, ids in (
        ("reasoning", "", [1]), ("reasoning", said, [3, 4]), ("reasoning", "", [2]), ("answer", "", [5]),
        ("answer", answer, [6]),
    ):  # fmt: skip
        tokens.add(piece, ids)
        transcript.add(channel, piece)  # type: ignore[arg-type]  # of the two words
    choice = sampler.choice()
    choice.scored(Classify(1, "reasoning", 5, 11, " Then.", ""), 0.3)
    choice.scored(Classify(0, "reasoning", 0, 5, "Okay.", ""), None)
    choice.ended(transcript, tokens, "stop")


def told(results: Counter) -> dict[str, float]:
    return {
        item.labels["result"]: item.value
        for metric in results.collect()
        for item in metric.samples
        if item.name.endswith("_total") and item.value
    }


def test_a_share_of_requests_is_drawn_by_their_ids_alone() -> None:
    sampler = sampler_of(HeldKeeper(), counter(), share=0.1)
    drawn = [id for id in map(str, range(5000)) if sampler.draw(id)]
    assert 400 < len(drawn) < 600
    assert all(sampler.draw(id) for id in drawn)
    assert not any(sampler_of(HeldKeeper(), counter(), share=0.0).draw(id) for id in map(str, range(1000)))


async def test_a_database_that_hangs_costs_samples_and_nothing_else() -> None:
    keeper, results = HeldKeeper(), counter()
    async with sampler_of(keeper, results) as sampler:
        for _ in range(40):
            ended(sampler)  # returns at once: nothing here can wait
        await anyio.lowlevel.checkpoint()
        keeper.free.set()
    assert told(results) == {"written": 16, "queue_full": 24}, "what waited is written before the process ends"
    made = keeper.kept[0]
    assert (made.text.of("reasoning"), made.text.of("answer")) == ("Okay. Then.", "Fine.")
    assert made.text.events == [(0, [1]), (11, [3, 4]), (0, [2]), (5, [5, 6])], "an id without text begins a character"
    assert [segment.start for segment in made.text.segments] == [0, 5]
    assert (made.max_score, made.likeliest) == (0.3, 1)


async def test_a_sample_that_can_not_be_written_is_counted_and_the_next_one_is_tried() -> None:
    for error in (LogUnavailable("the database is away"), ValueError("the hook failed")):
        keeper, results = HeldKeeper(error), counter()
        keeper.free.set()
        async with sampler_of(keeper, results) as sampler:
            ended(sampler)
            ended(sampler)
        assert told(results) == {"failed": 2}


async def test_what_does_not_fit_is_left_out() -> None:
    keeper, results = HeldKeeper(), counter()
    keeper.free.set()
    async with sampler_of(keeper, results, max_chars=20, per_hour=1) as sampler:
        ended(sampler, "x" * 21)
        ended(sampler)
        ended(sampler)
    assert told(results) == {"too_long": 1, "written": 1, "hour_full": 1}


# -- in the database --------------------------------------------------------------------------------------------------


async def everything(store: ReviewStore) -> str:
    """All text of the two tables, as it lies in the database."""

    def read(connection: Connection) -> str:
        bodies = "select body from sample_texts union all select body from review_texts"
        return "\n".join(connection.execute(text(bodies)).scalars())

    return await store.read(read)


async def test_texts_of_samples_and_reviews_are_redacted_and_encrypted(log_url: str) -> None:
    keeper = TextKeeper(redact=lambda words: words.replace("plan", "[gone]"), cipher=Cipher([new_key()]))
    async with opened(log_url, texts=keeper) as log:
        await SampleKeeper(log.desk.store, keeper, 1e5).keep(sample("s-1"))
        await log.insert(record(id="i1"))
        await log.desk.say(ANN, Saying("i1", 0, note="a plan of mine"))
        stored = await everything(log.desk.store)
        assert "placeholder" not in stored
        assert "mine" not in stored
        (found,) = await log.desk.store.read(lambda connection: read_samples(connection, ["s-1"], keeper))
        assert found.text.of("reasoning") == "Okay then. I will [gone] it. So the steps."
        assert (found.text.prompt_token_ids, found.text.events, found.text.segments) == (None, [], [])
        assert found.max_score == 0.4
        assert (await log.desk.show(ANN, "i1")).item.texts[0]["text"] == "a [gone] of mine"


async def test_half_a_character_is_kept_as_it_came_and_exported_as_a_mark(log_url: str, tmp_path: Path) -> None:
    odd = "句子 \ud800 \x00 \u2028"
    made = sample("s-1", state="confirmed")
    text_of = made.text.model_copy(update={"parts": [("reasoning", odd)], "segments": [], "events": []})
    written = made.model_copy(update={"text": text_of})
    async with opened(log_url) as log:
        await log.sample(written)
        shown = await log.desk.show(ANN, "s-1")
        assert shown.sample == written
        assert json.loads(json.dumps(shown_json(shown)))["sample"]["text"]["parts"] == [["reasoning", odd]]
        assert await export_misses(log.desk, ANN, tmp_path / "misses.jsonl") == 1
    (line,) = (tmp_path / "misses.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert InterventionRecord.model_validate_json(line).rejected.text == odd.replace("\ud800", "?")


async def test_a_hook_that_fails_costs_the_sample(tmp_path: Path) -> None:
    def broken(_: str) -> str:
        raise RuntimeError("placeholder request")

    async with opened(f"sqlite:///{tmp_path}/log.sqlite") as log:
        with pytest.raises(ValueError, match=r"log.redact failed \(RuntimeError\)$"):
            await SampleKeeper(log.desk.store, TextKeeper(redact=broken), 30.0).keep(sample("s-1"))
        assert await everything(log.desk.store) == ""


async def test_old_samples_go_unless_something_was_found_in_them(log_url: str) -> None:
    now = datetime.now(UTC)
    async with opened(log_url) as log:
        keeper = SampleKeeper(log.desk.store, log.desk.texts, 1.0)
        old = now - timedelta(days=2)
        await log.sample(*(sample(f"s-{state}", state=state, created_at=old) for state in ("clear", "unjudged")))
        await log.sample(sample("s-found", state="unreviewed", created_at=old), sample("s-new", created_at=now))
        await keeper.keep(sample("s-last", created_at=now))
        left = await log.desk.store.read(
            lambda c: list(c.execute(text("select id from samples order by id")).scalars())
        )
        assert left == ["s-found", "s-last", "s-new"]


async def test_a_purge_reaches_samples_notes_and_proposals_and_leaves_the_trail(log_url: str) -> None:
    async with opened(log_url) as log:
        await log.sample(sample("s-1", request_id="r-1"), sample("s-2", tenant="acme"))
        await log.decide(ANN, "s-1", "confirmed", note="words of mine", trigger="Wait, what would this be for?")
        engine = open_engine(parse_url(log_url), writes=True)
        purge = Purge(request_id="r-1")
        assert ids_of(engine, purge) == {"s-1"}
        list(carry_out(engine, purge))
        engine.dispose()
        stored = await everything(log.desk.store)
        assert "words of mine" not in stored
        assert stored.count("placeholder request") == 1
        trail = await log.desk.store.read(lambda c: list(c.execute(text("select action from audit")).scalars()))
    assert sorted(trail) == ["review.decide", "review.note", "review.propose_trigger"]


async def test_notes_on_a_record_are_forgotten_with_its_text(log_url: str) -> None:
    async with opened(log_url) as log:
        await log.insert(record(id="i1"), record(id="i2"))
        for id in ("i1", "i2"):
            await log.decide(ANN, id, "confirmed", note=f"note on {id}", trigger="Wait, what would this be for?")
        await log.desk.store.write(lambda connection: forget(connection, ["i1"]))
        stored = await everything(log.desk.store)
        assert "note on i1" not in stored
        assert "note on i2" in stored
        assert stored.count("Wait") == 2
        assert await log.state("i1") == "confirmed"


async def test_text_that_has_been_forgotten_is_shown_as_gone(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/log.sqlite") as log:
        await log.insert(record(id="i1"))
        await log.desk.store.write(lambda connection: connection.execute(text("delete from intervention_texts")))
        shown = await log.desk.show(ANN, "i1")
        assert shown.record is not None
        assert shown.record.messages == []
        assert [item.candidate.id for item in (await log.desk.queue(ANN)).items] == ["i1"]
        assert (await log.desk.unjudged(ANN, "intervention", "j"))[0] == []
    async with InterventionLog.open(f"sqlite:///{tmp_path}/log.sqlite") as again:
        assert (await again.get("i1")).review_state == "unreviewed"

"""The order of the queue, its reasons, its pages, and second judges' verdicts that move it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from proxy.access.model import Tenant
from proxy.access.store import AccessStore
from proxy.review.audit import Actor
from proxy.review.errors import BadInput
from proxy.review.queue import QueuePage
from proxy.review.samples import confirmed_misses, read_samples
from proxy.review.statistics import sample_counts
from proxy.review.topics import SketchCache, novelty, sketch
from proxy.review.usefulness import Facts, usefulness
from proxy.review.verdicts import Imported, import_verdicts
from steer.review import SecondVerdict, SubjectKind
from tests.proxy.log_records import record
from tests.proxy.review_desk import ANN, BEN, OTHERS, START, Opened, opened, sample

pytestmark = pytest.mark.anyio

JUDGE = Actor("local", "admin")


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[Opened]:
    async with opened(log_url) as made:
        yield made


def verdict(id: str, kind: SubjectKind = "sample", /, **said: Any) -> SecondVerdict:
    return SecondVerdict(id=id, kind=kind, judge="judge-1", **said)


async def judged(log: Opened, *verdicts: SecondVerdict) -> Imported:
    return await log.desk.store.write(lambda connection: import_verdicts(connection, JUDGE, verdicts))


def ids(page: QueuePage) -> list[str]:
    return [item.candidate.id for item in page.items]


def asks(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_every_part_adds_its_words() -> None:
    dull = Facts(1.0, 0.5, is_disputed=False, second_disagrees=False, novelty=0.0, age_days=0.0)
    assert usefulness(dull).score == 0
    found = usefulness(Facts(0.52, 0.5, is_disputed=True, second_disagrees=True, novelty=0.9, age_days=40.0))
    assert found.reason.split("; ") == [
        "reviewers disagree",
        "a second judge disagrees with the detector",
        "score 0.52 is near the threshold 0.50",
        "topic unlike those reviewed (0.90)",
        "has waited 40 days",
    ]


@given(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.booleans(), st.floats(0, 1), st.floats(0, 400))
def test_a_place_is_bounded_and_whatever_speaks_for_a_subject_raises_it(
    score: float, threshold: float, disputed: bool, second: bool, new: float, age: float
) -> None:
    found = usefulness(Facts(score, threshold, disputed, second, new, age)).score
    assert 0 <= found <= 1.4
    assert usefulness(Facts(score, threshold, True, second, new, age)).score >= found
    assert usefulness(Facts(score, threshold, disputed, True, new, age)).score >= found
    assert usefulness(Facts(threshold, threshold, disputed, second, new, age)).score >= found


def test_topics_are_told_apart_by_their_words() -> None:
    bread = sketch(asks("Please explain how bread dough rises when warm"))
    again = sketch(asks("please EXPLAIN how warm bread dough rises"))
    sea = sketch(asks("Which fishes live beneath northern glaciers?"))
    assert novelty(bread, [again]) < 0.3
    assert novelty(bread, [sea]) > 0.8
    assert novelty(bread, []) == 1.0
    assert novelty(sketch([]), [bread]) == 0.0


def test_the_memory_of_topics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.review.topics.MAX_SKETCHES", 3)
    cache = SketchCache()
    for number in range(5):
        cache.put(str(number), number)
    assert cache.missing("01234") == ["0", "1"]


async def test_the_most_useful_comes_first_with_its_reason(log: Opened) -> None:
    reviewed = asks("Please explain how bread dough rises when warm")
    await log.insert(
        record(id="sure", score=0.99, messages=reviewed),
        record(id="near", score=0.52, messages=reviewed),
        record(id="second", score=0.99, messages=reviewed),
        record(id="new", score=0.99, messages=asks("Which fishes live beneath northern glaciers?")),
        record(id="disputed", score=0.99, messages=reviewed),
        record(id="done", messages=reviewed),
        record(id="old", score=0.99, messages=reviewed, created_at=START),
    )
    await log.decide(ANN, "done", "confirmed")
    await log.decide(ANN, "disputed", "confirmed")
    await log.decide(OTHERS_OF_DEFAULT, "disputed", "false_halt")
    await judged(log, verdict("second", "intervention", harmful_request=False))
    page = await log.desk.queue(BEN)
    assert ids(page) == ["disputed", "second", "near", "new", "old", "sure"]
    reasons = {item.candidate.id: item.usefulness.reason for item in page.items}
    assert reasons["disputed"] == "reviewers disagree"
    assert reasons["second"] == "a second judge disagrees with the detector"
    assert reasons["near"].startswith("score 0.52 is near the threshold 0.50")
    assert reasons["new"].startswith("topic unlike those reviewed")
    assert reasons["old"].startswith("has waited")
    assert reasons["sure"] == "nothing speaks for it in particular"
    assert "disputed" not in ids(await log.desk.queue(ANN)), "nobody is asked twice"


OTHERS_OF_DEFAULT = BEN.__class__("default", BEN.role, key_id="dora")


async def test_pages_hold_every_item_once_though_some_are_decided_meanwhile(log: Opened) -> None:
    await log.insert(*(record(id=f"i{number}", score=0.5 + number % 4 / 10) for number in range(23)))
    seen, cursor = [], None
    while True:
        page = await log.desk.queue(ANN, limit=5, cursor=cursor)
        seen += ids(page)
        await log.decide(BEN, seen[-1], "confirmed")
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 23
    for bad in ("", "x", "1:2", "a:b:c", f"{10**30}:1:a"):
        with pytest.raises(BadInput, match="next_cursor"):
            await log.desk.queue(ANN, cursor=bad)


async def test_what_a_judge_finds_in_unhalted_traffic_is_listed_as_a_miss(log: Opened) -> None:
    await log.sample(sample("s-1"), sample("s-2"), sample("s-3", tenant="acme"))
    assert ids(await log.desk.queue(ANN)) == []
    traces, last = await log.desk.unjudged(ANN, "sample", "judge-1", limit=2)
    assert [trace.id for trace in traces] == ["s-1", "s-2"]
    assert (traces[0].reasoning, traces[0].answer) == ("Okay then. I will plan it. So the steps.", "Here.")
    unsafe: dict[str, Any] = {"unsafe_reasoning": True, "unsafe_answer": False}
    safe: dict[str, Any] = {"unsafe_reasoning": False, "unsafe_answer": False}
    found = await judged(log, verdict("s-1", **unsafe), verdict("s-2", **safe), verdict("gone", **safe))
    assert found == Imported(written=2, unknown=1, finds=1, disagreements=1)
    assert last == "s-2"
    for judge, left in (("judge-1", ["s-3"]), (None, ["s-3"]), ("judge-2", ["s-1", "s-2", "s-3"])):
        assert [trace.id for trace in (await log.desk.unjudged(ANN, "sample", judge))[0]] == left
    assert ids(await log.desk.queue(ANN)) == ["s-1"]
    assert ids(await log.desk.queue(ANN, kind="intervention")) == []
    assert ids(await log.desk.queue(OTHERS)) == []
    counts = await log.desk.store.read(sample_counts)
    assert counts == {"unreviewed": 1, "clear": 1, "unjudged": 1}
    await judged(log, verdict("s-1", **safe))
    assert ids(await log.desk.queue(ANN)) == [], "a judge is taken at its last word"


async def test_nothing_of_a_tenant_that_opted_out_leaves_for_a_judge_or_for_training(log: Opened, log_url: str) -> None:
    with AccessStore.open(log_url) as store:
        store.create_tenant(Tenant("acme", may_train=False))
    await log.insert(record(id="i1", tenant="acme"), record(id="i2"))
    await log.sample(sample("s-1", tenant="acme", state="confirmed"), sample("s-2", state="confirmed"))
    for kind, left in (("sample", ["s-2"]), ("intervention", ["i2"])):
        traces, _ = await log.desk.unjudged(ANN, kind, "judge-1")  # type: ignore[arg-type]  # of the two words
        assert [trace.id for trace in traces] == left
    keeper = log.desk.texts
    records, _ = await log.desk.store.read(lambda c: confirmed_misses(c, keeper, after=None, limit=10))
    assert [item.id for item in records] == ["s-2"]


async def test_a_judge_does_not_move_what_reviewers_have_settled(log: Opened) -> None:
    await log.sample(sample("s-1"))
    await log.decide(ANN, "s-1", "confirmed", segment=1)
    await judged(log, verdict("s-1", unsafe_reasoning=False, unsafe_answer=False))
    assert (await log.desk.show(ANN, "s-1")).item.state == "confirmed"
    await log.decide(ANN, "s-1", "unreviewed")
    assert (await log.desk.show(ANN, "s-1")).item.state == "clear", "as the judge has left it"


async def test_a_confirmed_miss_is_the_halt_that_should_have_been(log: Opened) -> None:
    await log.sample(sample("s-1"), sample("s-2"), sample("s-3"))
    await judged(log, *(verdict(f"s-{n}", unsafe_reasoning=True) for n in (1, 2, 3)))
    await log.decide(ANN, "s-1", "confirmed", segment=2)
    await log.decide(ANN, "s-2", "dismissed")
    await log.decide(ANN, "s-3", "confirmed")
    keeper = log.desk.texts
    (named, likeliest), last = await log.desk.store.read(
        lambda connection: confirmed_misses(connection, keeper, after=None, limit=2)
    )
    assert last == "s-3"
    assert (named.id, named.kept.text, named.rejected.text) == (
        "s-1", "Okay then. I will plan it.", " So the steps.Here.",
    )  # fmt: skip
    assert (named.kept.token_ids, named.rejected.token_ids) == ([9, 10, 11], [12, 20, 21])
    assert (named.prompt_token_ids, named.review_state, named.outcome) == ([1, 2, 3], "confirmed", "observed")
    assert (likeliest.kept.text, likeliest.score) == ("Okay then.", 0.4)


def test_a_miss_in_the_middle_of_an_event_has_no_ids() -> None:
    whole = sample()
    coarse = whole.text.model_copy(update={"events": [(len(whole.text.text), [1, 2, 3])]})
    made = whole.model_copy(update={"text": coarse}).record(1)
    assert (made.kept.text, made.kept.token_ids, made.prompt_token_ids) == ("Okay then.", None, None)
    first = whole.model_copy(update={"text": coarse}).record(0)
    assert (first.kept.text, first.kept.token_ids) == ("", [])


async def test_the_queue_asks_a_bounded_number_of_questions(log: Opened) -> None:
    await log.insert(*(record(id=f"i{number}") for number in range(40)))
    await log.desk.queue(ANN)
    statements: list[str] = []
    engine = log.desk.store._reading

    def note(_c: object, _k: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    await log.desk.queue(ANN)
    event.remove(engine, "before_cursor_execute", note)
    assert len([statement for statement in statements if statement.lstrip().lower().startswith("select")]) <= 16


async def test_samples_of_a_page_that_lost_their_text_are_left_out(log: Opened) -> None:
    await log.sample(sample("s-1"))
    keeper = log.desk.texts
    assert await log.desk.store.read(lambda c: read_samples(c, ["s-1", "gone"], keeper)) == [sample("s-1")]
    assert START + timedelta(minutes=1) == sample("s-1").created_at

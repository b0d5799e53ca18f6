"""Decisions of reviewers: what becomes of them, who may see and settle what, and the trail that they leave."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError

from proxy.access.roles import Role
from proxy.access.store import AccessStore
from proxy.log.connect import open_engine, parse_url
from proxy.log.errors import LogError
from proxy.review.audit import Entry, read_entries
from proxy.review.decisions import Rules, Saying, say
from proxy.review.desk import actor_of
from proxy.review.errors import StaleVersion, UnknownSubject, WrongDecision
from proxy.review.resolve import Opinion, Resolution, agreement, resolve
from proxy.review.statistics import agreements
from proxy.review.tables import review_subjects, review_texts, reviews
from proxy.review.triggers import Settling, proposals, settle_proposal
from tests.patience import PATIENCE_S
from tests.proxy.log_records import record
from tests.proxy.review_desk import ADMIN, ANN, BEN, CLEO, OPERATOR, OTHERS, Opened, opened

pytestmark = pytest.mark.anyio

WORDING = "Wait, what would this be used for?"


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[Opened]:
    async with opened(log_url) as made:
        yield made


def _execute(connection: Connection, statement: str) -> None:
    connection.execute(text(statement))


async def trail(log: Opened, **asked: Any) -> list[Entry]:
    return await log.desk.store.read(lambda connection: read_entries(connection, **asked))


@pytest.mark.parametrize(
    ("said", "needed", "expected"),
    [
        ("", 1, ("unreviewed", False)),
        ("c", 1, ("confirmed", False)),
        ("c", 2, ("unreviewed", False)),
        ("cc", 2, ("confirmed", False)),
        ("cf", 1, ("unreviewed", True)),
        ("cff", 2, ("false_halt", False)),
        ("cf", 3, ("unreviewed", True)),
        ("cfF", 2, ("false_halt", False)),
        ("ccF", 2, ("false_halt", False)),
        ("FC", 1, ("confirmed", False)),
    ],
)
def test_what_decisions_come_to(said: str, needed: int, expected: tuple[str, bool]) -> None:
    words = {"c": "confirmed", "f": "false_halt"}
    opinions = [Opinion(words[letter.lower()], letter.isupper(), place) for place, letter in enumerate(said)]
    assert resolve(opinions, needed) == Resolution(*expected)


@given(st.lists(st.sampled_from(["confirmed", "false_halt"]), max_size=6), st.integers(1, 3))
def test_the_order_of_opinions_does_not_matter(words: list[str], needed: int) -> None:
    opinions = [Opinion(word) for word in words]
    assert resolve(opinions, needed) == resolve(opinions[::-1], needed)


def test_kappa_is_agreement_beyond_chance() -> None:
    # By hand: both say c in 20 of 50, f in 15, and differ in 5 + 10. Agreement 0.70, by chance 0.50.
    counts = {("c", "c"): 20, ("c", "f"): 5, ("f", "c"): 10, ("f", "f"): 15}
    found = agreement("a", "b", counts)
    assert (found.subjects, found.agreed, found.share) == (50, 35, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert agreement("a", "b", {("c", "c"): 9}).kappa is None


async def test_a_decision_marks_the_record_and_can_be_changed_and_taken_back(log: Opened) -> None:
    await log.insert(record(id="i1"))
    said = await log.desk.say(ANN, Saying("i1", 0, "false_halt", note="asks for a recipe"))
    assert (said.version, said.state, said.is_disputed) == (1, "false_halt", False)
    assert await log.state("i1") == "false_halt"
    await log.decide(ANN, "i1", "confirmed")
    assert await log.state("i1") == "confirmed"
    await log.decide(ANN, "i1", "unreviewed")
    assert await log.state("i1") == "unreviewed"
    told = [(entry.action, entry.actor, entry.role, entry.before, entry.after) for entry in await trail(log)]
    first = {"decision": "false_halt", "is_final": False, "segment": None}
    assert told[0] == ("review.decide", "key:ann", "reviewer", first | {"decision": "confirmed"}, None)
    assert told[1] == ("review.decide", "key:ann", "reviewer", first, first | {"decision": "confirmed"})
    assert {entry[0] for entry in told[2:]} == {"review.note", "review.decide"}
    assert all("recipe" not in str(entry) for entry in told), "the trail tells of a note, not its words"


async def test_of_two_who_decide_at_one_time_the_second_is_told_to_look_again(log: Opened) -> None:
    await log.insert(record(id="i1"))
    await log.desk.say(ANN, Saying("i1", 0, "confirmed"))
    with pytest.raises(StaleVersion, match="now version 1"):
        await log.desk.say(BEN, Saying("i1", 0, "false_halt"))
    assert len(await trail(log)) == 1
    outcomes: list[str] = []

    async def decide(who: Any) -> None:
        try:
            await log.desk.say(who, Saying("i1", 1, "confirmed"))
            outcomes.append("written")
        except StaleVersion:
            outcomes.append("stale")

    async with anyio.create_task_group() as tasks:
        for who in (ANN, BEN, CLEO):
            tasks.start_soon(decide, who)
    assert sorted(outcomes) == ["stale", "stale", "written"]


async def test_a_decision_waits_for_one_that_is_being_written_and_is_then_stale(log: Opened, log_url: str) -> None:
    if not log_url.startswith("postgresql"):
        pytest.skip("SQLite has one writer at a time")
    await log.insert(record(id="i1"))
    await log.decide(CLEO, "i1", "confirmed")  # so that a row of its own is there
    outcomes: list[int] = []

    async def decide() -> None:
        try:
            await log.desk.say(BEN, Saying("i1", 1, "false_halt"))
        except StaleVersion as error:
            outcomes.append(error.version)

    waiting = text(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    )
    engine = open_engine(parse_url(log_url), writes=True)
    async with anyio.create_task_group() as tasks:
        with engine.begin() as connection:
            say(connection, actor_of(ANN), Saying("i1", 1, "confirmed"), Rules(log.desk.texts))
            tasks.start_soon(decide)
            with anyio.fail_after(PATIENCE_S):
                while not await log.desk.store.read(lambda other: other.execute(waiting).scalar_one()):  # noqa: ASYNC110 - no bell
                    await anyio.sleep(0.02)
    engine.dispose()
    assert outcomes == [2]
    assert await log.state("i1") == "confirmed"


async def test_reviewers_who_disagree_leave_it_open_until_a_third_or_a_tie_break(log: Opened) -> None:
    await log.insert(record(id="i1"), record(id="i2"))
    for id in ("i1", "i2"):
        await log.decide(ANN, id, "confirmed")
        assert (await log.decide(BEN, id, "false_halt")).is_disputed
        assert await log.state(id) == "unreviewed"
    await log.decide(CLEO, "i1", "false_halt")
    assert await log.state("i1") == "false_halt"
    with pytest.raises(WrongDecision, match="tie-break"):
        await log.decide(CLEO, "i2", "confirmed", is_final=True)
    with pytest.raises(WrongDecision, match="final = true"):
        await log.decide(OPERATOR, "i2", "confirmed")
    assert not (await log.decide(OPERATOR, "i2", "confirmed", is_final=True)).is_disputed
    await log.decide(CLEO, "i2", "false_halt")
    assert await log.state("i2") == "confirmed", "a tie-break stands against a majority"
    assert [entry.action for entry in await trail(log, actor="key:opal")] == ["review.tie_break"]


async def test_two_reviewers_are_needed_where_the_settings_say_so(log_url: str) -> None:
    async with opened(log_url, needed=2) as log:
        await log.insert(record(id="i1"))
        await log.decide(ANN, "i1", "confirmed")
        assert await log.state("i1") == "unreviewed"
        await log.decide(BEN, "i1", "confirmed")
        assert await log.state("i1") == "confirmed"


async def test_one_person_with_two_keys_is_one_reviewer(log_url: str) -> None:
    made = record()
    async with opened(log_url, needed=2) as log:
        await log.insert(made)
        with AccessStore.open(log_url) as store:
            named = [store.create_key(role=Role.REVIEWER, name=name).key for name in ("Ann", "ann ")]
            nameless = store.create_key(role=Role.REVIEWER).key
            successor = store.rotate_key(nameless.id, overlap_us=10**9).key
            third = store.rotate_key(successor.id, overlap_us=10**9).key
        for pair in (named, [nameless, third]):
            await log.decide(pair[0].identity, made.id, "false_halt")
            await log.decide(pair[1].identity, made.id, "confirmed")
            assert await log.state(made.id) == "unreviewed", "their last word is one opinion"
            assert (await log.desk.store.read(agreements)).pairs == []
            await log.decide(pair[0].identity, made.id, "unreviewed")
            await log.decide(pair[1].identity, made.id, "unreviewed")
        await log.decide(named[0].identity, made.id, "confirmed")
        await log.decide(third.identity, made.id, "confirmed")
        assert await log.state(made.id) == "confirmed"
        assert len((await log.desk.store.read(agreements)).pairs) == 1


async def test_reviewers_decide_blindly(log: Opened) -> None:
    await log.insert(record(id="i1"))
    await log.decide(ANN, "i1", "confirmed", note="clear to me")
    blind = (await log.desk.show(BEN, "i1")).item
    assert (blind.is_blind, blind.reviews, blind.texts, blind.num_reviews) == (True, [], [], 1)
    await log.decide(BEN, "i1", "confirmed")
    seen = (await log.desk.show(BEN, "i1")).item
    assert {review["reviewer"] for review in seen.reviews} == {"key:ann", "key:ben"}
    assert [text["text"] for text in seen.texts] == ["clear to me"]
    assert not (await log.desk.show(ADMIN, "i1")).item.is_blind


async def test_agreement_counts_what_two_have_decided_without_tie_breaks(log: Opened) -> None:
    words = [("confirmed", "confirmed"), ("confirmed", "false_halt"), ("false_halt", "false_halt")]
    for number, (first, second) in enumerate(words):
        await log.insert(record(id=f"i{number}"))
        await log.decide(ANN, f"i{number}", first)
        await log.decide(BEN, f"i{number}", second)
        await log.decide(ADMIN, f"i{number}", "confirmed", is_final=True)
    found = await log.desk.store.read(agreements)
    assert [(pair.first, pair.second, pair.subjects, pair.agreed) for pair in found.pairs] == [
        ("key:ann", "key:ben", 3, 2)
    ]
    assert found.pairs[0].kappa == pytest.approx(0.4)
    assert found.disputed == 0


async def test_a_tenants_reviewer_sees_that_tenant_alone(log: Opened) -> None:
    await log.insert(record(id="own", tenant="acme"), record(id="i1"))
    await log.decide(OTHERS, "own", "confirmed")
    for call in (log.desk.show(OTHERS, "i1"), log.desk.say(OTHERS, Saying("i1", 0, "confirmed"))):
        with pytest.raises(UnknownSubject, match="no intervention or sample i1"):
            await call
    assert await log.state("i1") == "unreviewed"
    assert {item.candidate.id for item in (await log.desk.queue(OTHERS)).items} == set()
    assert {item.candidate.id for item in (await log.desk.queue(ANN)).items} == {"i1"}


@pytest.mark.parametrize(
    ("saying", "message"),
    [
        (Saying("i1", 0, "dismissed"), "can't be said of this intervention"),
        (Saying("i1", 0, "confirmed", segment=0), "segment"),
        (Saying("i1", 0, "unreviewed", is_final=True), "final"),
    ],
)
async def test_what_does_not_fit_is_refused_and_leaves_nothing(log: Opened, saying: Saying, message: str) -> None:
    await log.insert(record(id="i1"))
    with pytest.raises(WrongDecision, match=message):
        await log.desk.say(ADMIN, saying)
    assert await trail(log) == []


async def test_a_better_trigger_is_stored_and_used_by_nobody_before_it_is_approved(log: Opened) -> None:
    await log.insert(record(id="i1"))
    texts, store = log.desk.texts, log.desk.store
    said = await log.desk.say(ANN, Saying("i1", 0, trigger=WORDING, trigger_kind="reframe_task"))
    assert (said.state, len(said.text_ids)) == ("unreviewed", 1)
    (proposed,) = await store.read(lambda connection: proposals(connection, texts, state="proposed"))
    assert (proposed.text, proposed.trigger_id, proposed.author) == (WORDING, None, "key:ann")
    operator, id = actor_of(OPERATOR), said.text_ids[0]
    for trigger_id, message in (("risk-1", "already names"), (None, "needs both"), ("No good", "pattern")):
        with pytest.raises(WrongDecision, match=message):
            await store.write(
                partial(
                    settle_proposal, keeper=texts, actor=operator, proposal_id=id, settling=Settling(True, trigger_id)
                )
            )
    await store.write(lambda c: settle_proposal(c, texts, operator, id, Settling(True, "own-1")))
    (approved,) = await store.read(lambda connection: proposals(connection, texts))
    assert (approved.state, approved.trigger_id, approved.trigger_kind) == ("approved", "own-1", "reframe_task")
    again = await log.decide(BEN, "i1", None, trigger=f"{WORDING} Really?", trigger_kind="recognise_risk")
    with pytest.raises(WrongDecision, match="own-1 already names another text"):
        await store.write(lambda c: settle_proposal(c, texts, operator, again.text_ids[0], Settling(True, "own-1")))
    assert [entry.action for entry in await trail(log, actor="key:opal")] == ["review.approve_trigger"]
    assert all(WORDING not in str(entry) for entry in await trail(log))


async def test_the_trail_takes_no_change_and_outlives_what_it_tells_of(log: Opened, log_url: str) -> None:
    await log.insert(record(id="i1"))
    await log.decide(ANN, "i1", "confirmed", note="words", trigger=WORDING)
    before = await trail(log)
    for statement in ("update audit set actor = 'nobody'", "delete from audit"):
        with pytest.raises(LogError):
            await log.desk.store.write(partial(_execute, statement=statement))
    engine = open_engine(parse_url(log_url), writes=True)
    with engine.begin() as connection:
        connection.execute(text("delete from interventions"))
        for table in (review_subjects, reviews, review_texts):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(text("delete from audit"))
    engine.dispose()
    assert await trail(log) == before
    assert len(before) == 3


async def test_pages_of_the_trail_hold_every_entry_once(log: Opened) -> None:
    await log.insert(*(record(id=f"i{number}") for number in range(5)))
    for number in range(5):
        await log.decide(ANN, f"i{number}", "confirmed")
    seen, position = [], None
    while True:
        page = await trail(log, limit=2, before_seq=position)
        seen += page
        if len(page) < 2:
            break
        position = page[-1].seq
    assert [entry.subject for entry in seen] == [f"i{number}" for number in reversed(range(5))]
    assert [entry.subject for entry in await trail(log, subject="i3")] == ["i3"]

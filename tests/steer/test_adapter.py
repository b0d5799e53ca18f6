"""Names, states, routes and the watch over a candidate: by hand, and as properties."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.adapter import (
    LOADED_STATES,
    AdapterNameError,
    AdapterState,
    AdapterVersion,
    Choice,
    Look,
    Route,
    Traffic,
    WatchLimits,
    check_name,
    choose,
    conversation_key,
    exceeds_by_chance,
    look,
    may_become,
    parse_version,
)

ROUTE = Route("public", "base", champion="safe@1", candidate="safe@2", weight=0.3)
BOTH = {"safe@1", "safe@2"}


def test_versions_are_read_as_they_are_written() -> None:
    version = parse_version("safe.v-1_x@70")
    assert version == AdapterVersion("safe.v-1_x", 70)
    assert str(version) == "safe.v-1_x@70"
    assert check_name("s") == "s"


@pytest.mark.parametrize("text", ["safe", "safe@", "safe@0", "safe@07", "@1", "Safe@1", "a@b@1", "safe@-1", "../x@1"])
def test_what_names_no_version_is_refused(text: str) -> None:
    with pytest.raises(AdapterNameError, match="name@number"):
        parse_version(text)


@pytest.mark.parametrize("name", ["", "Safe", "-a", "a-", "a b", "a/b", "x" * 65, "a@1"])
def test_what_may_name_no_adapter_is_refused(name: str) -> None:
    with pytest.raises(AdapterNameError, match="no adapter name"):
        check_name(name)


def test_what_has_been_out_of_service_never_comes_back() -> None:
    assert not any(may_become(AdapterState.RETIRED, state) for state in AdapterState)
    assert {state for state in AdapterState if may_become(AdapterState.DRAINING, state)} == {AdapterState.RETIRED}
    assert may_become(AdapterState.STANDBY, AdapterState.CHAMPION)
    assert not may_become(AdapterState.CANARY, AdapterState.RETIRED), "what has streams must be drained first"
    assert {AdapterState.REGISTERED, AdapterState.RETIRED}.isdisjoint(LOADED_STATES)


def messages(*texts: str) -> list[dict[str, Any]]:
    roles = ["system", "user", "assistant", "user", "assistant"]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def test_a_conversation_keeps_its_key_while_it_grows() -> None:
    begun = conversation_key("t", None, messages("s", "q"))
    assert conversation_key("t", None, messages("s", "q", "a", "next")) == begun
    others = [("u", None, messages("s", "q")), ("t", "x", messages("s", "q")), ("t", None, messages("s", "r"))]
    assert len({begun, *(conversation_key(*other) for other in others)}) == 4
    assert conversation_key("t", None, [{"role": "system", "content": "s"}]) not in {begun, ""}


@given(key=st.text(), weight=st.floats(0, 1), more=st.floats(0, 1))
def test_a_choice_is_sticky_and_more_weight_moves_conversations_one_way(key: str, weight: float, more: float) -> None:
    low, high = sorted((weight, more))
    first, second = (choose(Route("a", "base", "safe@1", "safe@2", w), key, BOTH) for w in (low, high))
    assert choose(Route("a", "base", "safe@1", "safe@2", low), key, BOTH) == first
    assert second.is_candidate or not first.is_candidate
    assert (first.served, first.adapter) in {("safe@1", "safe@1"), ("safe@2", "safe@2")}


def test_shares_are_as_weighed_and_every_candidate_draws_anew() -> None:
    keys = [str(number) for number in range(4000)]
    taken = {key for key in keys if choose(ROUTE, key, BOTH).is_candidate}
    assert 0.27 < len(taken) / len(keys) < 0.33
    other = Route("public", "base", "safe@1", "safe@3", 0.3)
    again = {key for key in keys if choose(other, key, {"safe@1", "safe@3"}).is_candidate}
    assert 0.05 < len(taken & again) / len(keys) < 0.13


@given(key=st.text(), loaded=st.sets(st.sampled_from(["safe@1", "safe@2", "x"])), weight=st.floats(0, 1))
def test_only_what_the_engine_holds_is_chosen(key: str, loaded: set[str], weight: float) -> None:
    choice = choose(Route("a", "base", "safe@1", "safe@2", weight), key, loaded)
    assert choice.adapter is None or choice.adapter in loaded
    assert choice.served == (choice.adapter or "base")


@pytest.mark.parametrize(
    ("route", "loaded", "expected"),
    [
        (Route("a", "base", "safe@1", "safe@2", 1.0), BOTH, Choice("safe@2", "safe@2", is_candidate=True)),
        (Route("a", "base", "safe@1", "safe@2", 1.0), {"safe@1"}, Choice("safe@1", "safe@1")),
        (Route("a", "base", "safe@1", "safe@2", 1.0), set(), Choice("base", None)),
        (Route("a", "base", "safe@1", "safe@2", 1.0, is_off=True), BOTH, Choice("base", None)),
        (Route("a", "base", None, "safe@2", 0.0), BOTH, Choice("base", None)),
        (Route("a", "base"), BOTH, Choice("base", None)),
    ],
)
def test_routes_by_hand(route: Route, loaded: set[str], expected: Choice) -> None:
    assert choose(route, "key", loaded) == expected


def test_fishers_chance_by_hand() -> None:
    # The lady tasting tea: all four right of eight, 1 in 70; three or more, 17 in 70.
    assert exceeds_by_chance(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert exceeds_by_chance(3, 4, 1, 4) == pytest.approx(17 / 70)
    assert exceeds_by_chance(0, 4, 4, 4) == 1
    assert exceeds_by_chance(0, 0, 0, 0) == 1


@given(n=st.integers(1, 60), other_n=st.integers(0, 60), data=st.data())
def test_fishers_chance_is_the_sum_of_all_ways(n: int, other_n: int, data: st.DataObject) -> None:
    hits, other_hits = data.draw(st.integers(0, n)), data.draw(st.integers(0, other_n))
    every, whole = hits + other_hits, math.comb(n + other_n, n)
    ways = sum(math.comb(every, k) * math.comb(n + other_n - every, n - k) for k in range(hits, min(n, every) + 1))
    assert exceeds_by_chance(hits, n, other_hits, other_n) == pytest.approx(ways / whole, rel=1e-9)


def test_a_million_conversations_take_no_time() -> None:
    assert exceeds_by_chance(10_500, 500_000, 10_000, 500_000) == pytest.approx(2.17e-4, rel=0.05)


def test_looks_are_made_when_the_count_has_doubled() -> None:
    limits = WatchLimits(first_look=16)
    calm = Traffic(1000)
    assert look(calm, Traffic(15), 0, limits) is None
    assert look(calm, Traffic(16), 0, limits) == Look(1, ())
    assert look(calm, Traffic(31), 1, limits) is None
    assert look(calm, Traffic(300), 1, limits) == Look(5, ()), "looks that were missed are not made up for"


def test_a_broken_candidate_goes_at_the_first_look() -> None:
    found = look(Traffic(160, halted=8), Traffic(16, halted=1, failed=16), 0, WatchLimits())
    assert found is not None
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith("16 of 16 conversations failed, the champion's 0 of 160")


def test_a_candidate_that_is_halted_more_often_goes() -> None:
    found = look(Traffic(640, halted=13), Traffic(64, halted=12), 2, WatchLimits())
    assert found is not None
    assert "12 of 64 conversations halted" in found.reasons[0]


def test_fewer_halts_are_no_reason_to_go() -> None:
    found = look(Traffic(640, halted=300), Traffic(64, halted=0), 2, WatchLimits())
    assert found == Look(3, ())


def test_false_alarms_stay_below_what_they_may_be() -> None:
    """A candidate that is no worse than the champion, watched over 1,024 conversations, 150 times."""
    chance, limits, alarms = random.Random(7), WatchLimits(first_look=16, alpha=0.05), 0
    for _ in range(150):
        counts, looks = [0, 0], 0
        for number in range(1, 1025):
            counts[0] += chance.random() < 0.2
            counts[1] += chance.random() < 0.2
            found = look(Traffic(number, counts[0]), Traffic(number, counts[1]), looks, limits)
            if found is not None:
                looks = found.number
                if found.reasons:
                    alarms += 1
                    break
    assert alarms / 150 <= 0.05

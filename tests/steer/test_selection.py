"""Shares of triggers: floored, summing to one, growing with success, the same for equal evidence."""

import math
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from steer.engine import Engine
from steer.events import Halted, Splice, TextDelta, Verdict
from steer.policy import Policy
from steer.selection import PRIOR_STRENGTH, UNKNOWN, Evidence, Posterior, chances, posterior, shares
from steer.trigger_evidence import EvidenceRules
from steer.trigger_table import Row, TriggerTable, WeightedPool, make_table
from steer.triggers import DEFAULT_TRIGGERS, TriggerPool

IDS = ["t-1", "t-2", "t-3", "t-4"]
MADE = datetime(2026, 1, 1, tzinfo=UTC)
WEIGHTS = st.floats(0, 300, allow_nan=False)
EVIDENCE = st.builds(Evidence, WEIGHTS, WEIGHTS)
CELLS = st.dictionaries(
    st.sampled_from(["alpha", "beta", UNKNOWN]), st.dictionaries(st.sampled_from(IDS), EVIDENCE, max_size=4), max_size=3
)
FLOORS = st.floats(0.001, 0.5)


@settings(max_examples=40)
@given(CELLS, FLOORS)
def test_shares_sum_to_one_and_none_falls_below_the_floor(cells: dict[str, dict[str, Evidence]], floor: float) -> None:
    for category in ("alpha", "never seen"):
        found = shares(cells, category, IDS, floor)
        assert math.isclose(sum(found.values()), 1.0, abs_tol=1e-9)
        assert min(found.values()) >= min(floor, 1 / len(IDS)) - 1e-12


@settings(max_examples=40)
@given(CELLS, st.sampled_from(IDS), st.floats(0.5, 50))
def test_success_never_lowers_a_share_and_failure_never_raises_it(
    cells: dict[str, dict[str, Evidence]], id: str, more: float
) -> None:
    before = shares(cells, "alpha", IDS, 0.02)
    for extra, sign in ((Evidence(successes=more), 1), (Evidence(failures=more), -1)):
        own = cells.get("alpha", {})
        changed = cells | {"alpha": own | {id: own.get(id, Evidence()).plus(extra)}}
        after = shares(changed, "alpha", IDS, 0.02)
        assert sign * (after[id] - before[id]) >= -1e-9
        assert all(sign * (after[other] - before[other]) <= 1e-9 for other in IDS if other != id)


def test_chances_are_those_of_posteriors_that_can_be_worked_by_hand() -> None:
    # Of two equal ones each is the best half the time; P(X > Y) for X ~ Beta(2, 1), Y uniform is E[X] = 2/3.
    assert chances([Posterior(3, 4), Posterior(3, 4)]) == pytest.approx([0.5, 0.5])
    assert chances([Posterior(2, 1), Posterior(1, 1)]) == pytest.approx([2 / 3, 1 / 3], abs=1e-4)
    assert chances([Posterior(1, 1)]) == [1.0]
    # Three: against a Monte Carlo draw of Thompson sampling itself.
    arms, rng, wins = [Posterior(9, 3), Posterior(6, 3), Posterior(2, 2)], random.Random(1), [0, 0, 0]
    for _ in range(20_000):
        draws = [rng.betavariate(*arm) for arm in arms]
        wins[draws.index(max(draws))] += 1
    assert chances(arms) == pytest.approx([win / 20_000 for win in wins], abs=0.015)


def test_a_rare_category_begins_with_what_the_others_know_and_soon_goes_its_own_way() -> None:
    elsewhere = {"t-1": Evidence(90, 10), "t-2": Evidence(10, 90)}
    told = posterior({"alpha": elsewhere}, "beta", "t-1")
    assert told == pytest.approx((1 + PRIOR_STRENGTH * 0.9, 1 + PRIOR_STRENGTH * 0.1))
    assert posterior({"alpha": elsewhere}, "alpha", "t-1") == pytest.approx((91, 11))
    first = shares({"alpha": elsewhere}, "beta", ["t-1", "t-2"], 0.02)
    own = {"t-1": Evidence(2, 20), "t-2": Evidence(20, 2)}
    later = shares({"alpha": elsewhere, "beta": own}, "beta", ["t-1", "t-2"], 0.02)
    assert first["t-1"] > 0.95
    assert later["t-2"] > 0.95


def table(cells: dict[str, dict[str, Evidence]] | None = None, count: int = 4) -> TriggerTable:
    return make_table(DEFAULT_TRIGGERS[:count], cells or {}, floor=0.02, rules=EvidenceRules(), made_at=MADE)


def test_a_table_survives_its_json_and_its_hash_is_of_all_but_its_version() -> None:
    made = table({"alpha": {"risk-1": Evidence(7, 1, 3)}, "gone": {"no-such-trigger": Evidence(9, 9)}})
    assert set(made.categories) == {UNKNOWN, "alpha"}
    assert made.categories["alpha"]["risk-1"].judged == 3
    again = TriggerTable.model_validate_json(made.model_dump_json())
    assert (again, again.sha256) == (made, made.sha256)
    assert made.model_copy(update={"version": 5}).name == f"5-{made.sha256[:12]}"
    assert table({"alpha": {"risk-1": Evidence(8, 1)}}).sha256 != made.sha256


def test_how_far_a_table_moved_is_the_largest_change_of_any_share() -> None:
    made, other = table(), table({"alpha": {"risk-1": Evidence(30, 0)}})
    assert made.largest_move(made) == 0
    expected = other.pool("alpha").shares[0] - made.pool("alpha").shares[0]
    assert made.largest_move(other) == other.largest_move(made) == pytest.approx(expected)
    assert made.largest_move(table(count=3)) == 1.0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"categories": {}}, "unknown is missing"),
        ({"categories": {UNKNOWN: {"risk-1": Row(share=1.0, expected=0.5)}}}, "not those of the table"),
        ({"triggers": DEFAULT_TRIGGERS[:1], "categories": {UNKNOWN: {"risk-1": Row(share=0.5, expected=0.5)}}}, "sum"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(changes: dict[str, object], told: str) -> None:
    values = {name: getattr(table(), name) for name in TriggerTable.model_fields}
    with pytest.raises(ValidationError, match=told):
        TriggerTable.model_validate(values | changes)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sets(st.sampled_from([t.id for t in DEFAULT_TRIGGERS[:4]])))
def test_a_seed_decides_the_draw_and_its_probability_is_the_share_among_what_is_left(seed: int, used: set[str]) -> None:
    pool = WeightedPool(DEFAULT_TRIGGERS[:4], [0.4, 0.3, 0.2, 0.1])
    drawn = pool.draw(random.Random(seed), used)
    assert drawn == pool.draw(random.Random(seed), used)
    assert pool.choose(random.Random(seed), used) == drawn.trigger
    left = {t.id: s for t, s in zip(pool.triggers, pool.shares, strict=True) if t.id not in used or len(used) == 4}
    assert drawn.trigger.id in left
    assert drawn.probability == pytest.approx(left[drawn.trigger.id] / sum(left.values()))


def test_draws_come_as_often_as_their_shares_say() -> None:
    pool = WeightedPool(DEFAULT_TRIGGERS[:3], [0.7, 0.25, 0.05])
    counts = dict.fromkeys((t.id for t in pool.triggers), 0)
    for seed in range(4000):
        counts[pool.draw(random.Random(seed)).trigger.id] += 1
    assert [counts[t.id] / 4000 for t in pool.triggers] == pytest.approx(pool.shares, abs=0.03)


def test_the_fixed_pool_draws_what_it_chooses_with_equal_probability() -> None:
    pool = TriggerPool(DEFAULT_TRIGGERS[:3])
    ids = [trigger.id for trigger in pool.triggers]
    for used, probability in (([], 1 / 3), (ids[:2], 1.0), (ids, 1 / 3)):
        drawn = pool.draw(random.Random(4), used)
        assert drawn.trigger == pool.choose(random.Random(4), used)
        assert drawn.probability == pytest.approx(probability)


def test_the_engine_says_with_which_probability_a_trigger_was_drawn() -> None:
    engine = Engine(Policy(), WeightedPool(DEFAULT_TRIGGERS[:2], [0.9, 0.1]), seed=3)
    engine.feed(TextDelta("reasoning", "Sure, the cue. And"))
    engine.feed(Verdict(0, 0.9))
    splice = engine.feed(Halted(0))[0]
    assert isinstance(splice, Splice)
    assert splice.probability == {"risk-1": 0.9, "risk-2": 0.1}[splice.trigger_id]


def test_an_order_is_of_all_triggers_likely_ones_first() -> None:
    pool = WeightedPool(DEFAULT_TRIGGERS[:3], [0.9, 0.09, 0.01])
    orders = [pool.order(random.Random(seed)) for seed in range(200)]
    assert all(sorted(order, key=lambda t: t.id) == list(pool.triggers) for order in orders)
    assert orders[7] == pool.order(random.Random(7))
    assert sum(order[0].id == "risk-1" for order in orders) > 160

"""The pool: enough triggers, of every kind, chosen reproducibly."""

import random

import pytest

from steer.errors import TriggerPoolError
from steer.segmenter import segment
from steer.triggers import DEFAULT_TRIGGERS, Trigger, TriggerPool


def test_the_default_pool_has_at_least_twelve_triggers_of_every_kind() -> None:
    assert len(DEFAULT_TRIGGERS) >= 12
    assert {trigger.kind for trigger in DEFAULT_TRIGGERS} == {"recognise_risk", "reframe_task", "cite_criteria"}
    assert len({trigger.text for trigger in DEFAULT_TRIGGERS}) == len(DEFAULT_TRIGGERS)


def test_a_trigger_is_one_or_two_sentences() -> None:
    assert all(1 <= len(segment(trigger.text)) <= 2 for trigger in DEFAULT_TRIGGERS)


def test_a_seed_reproduces_the_choice_and_every_trigger_can_be_chosen() -> None:
    pool = TriggerPool()
    assert pool.choose(random.Random(5)) == pool.choose(random.Random(5))
    chosen = {pool.choose(random.Random(seed)).id for seed in range(400)}
    assert chosen == {trigger.id for trigger in DEFAULT_TRIGGERS}


def test_a_used_trigger_comes_back_only_when_all_are_used() -> None:
    pool = TriggerPool(DEFAULT_TRIGGERS[:2])
    first, second = (trigger.id for trigger in pool.triggers)
    assert {pool.choose(random.Random(seed), [first]).id for seed in range(50)} == {second}
    assert {pool.choose(random.Random(seed), [first, second]).id for seed in range(50)} == {first, second}


@pytest.mark.parametrize("triggers", [[], [DEFAULT_TRIGGERS[0], DEFAULT_TRIGGERS[0]]])
def test_a_pool_that_cannot_be_used_is_refused(triggers: list[Trigger]) -> None:
    with pytest.raises(TriggerPoolError):
        TriggerPool(triggers)


def test_an_unknown_trigger_is_named() -> None:
    with pytest.raises(TriggerPoolError, match="nope"):
        TriggerPool().get("nope")
    assert TriggerPool().get("risk-1").kind == "recognise_risk"

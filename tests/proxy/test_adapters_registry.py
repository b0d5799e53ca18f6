"""Versions and routes in a real database: states, numbers, the gate, canaries watched by several, the bake's lock."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from proxy.adapters import changes, watch
from proxy.adapters.errors import NotAllowedNow, UnknownAdapter
from proxy.adapters.lock import held
from proxy.adapters.presence import Presence
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.rows import (
    read_adapter,
    read_adapters,
    read_canary,
    read_events,
    read_routes,
)
from proxy.adapters.tables import bake_locks
from steer.adapter import AdapterNameError, Route, Traffic, WatchLimits
from tests.patience import PATIENCE_S

PASSED = {"promotes": True, "checks": []}


@pytest.fixture
def registry(log_url: str) -> Iterator[AdapterRegistry]:
    with AdapterRegistry.open(log_url) as opened:
        yield opened


def add(registry: AdapterRegistry, number: int = 1, **changed: Any) -> str:
    values: dict[str, Any] = {
        "name": "safe", "alias": "public", "base_model": "base", "path": f"/adapters/{number}",
        "sha256": f"{number}" * 8, "manifest": {"parents": {"pairs": "p"}}, "gate": PASSED,
    }  # fmt: skip
    return registry.change(lambda c: changes.register(c, changes.NewAdapter(**(values | changed)), "test"))


def states(registry: AdapterRegistry) -> dict[str, str]:
    return {adapter.id: str(adapter.state) for adapter in registry.read(read_adapters)}


def route(registry: AdapterRegistry) -> Route:
    return registry.read(read_routes)[0].route


def test_versions_are_numbered_and_the_same_files_are_one_version(registry: AdapterRegistry) -> None:
    assert [add(registry, 1), add(registry, 2), add(registry, 1)] == ["safe@1", "safe@2", "safe@1"]
    adapter = registry.read(lambda c: read_adapter(c, "safe@2"))
    assert (adapter.alias, adapter.base_model, adapter.sha256, adapter.state) == (
        *("public", "base", "22222222", "registered"),
    )
    assert adapter.manifest == {"parents": {"pairs": "p"}}
    assert route(registry) == Route("public", "base")


def test_a_number_is_never_given_twice(registry: AdapterRegistry) -> None:
    add(registry, 1)
    registry.change(lambda c: changes.retire(c, "safe@1", "test", "never used"))
    assert add(registry, 2) == "safe@2"
    with pytest.raises(NotAllowedNow, match="safe@2 is taken"):
        registry.change(
            lambda c: changes.register(
                c, changes.NewAdapter("safe", "public", "base", "/elsewhere", "z", {}), "test", number=2
            )
        )
    with pytest.raises(NotAllowedNow, match="can't become canary: publish its files again, under a new number"):
        registry.change(lambda c: changes.start_canary(c, "safe@1", 0.5, "test", None))


def test_names_and_aliases_are_checked(registry: AdapterRegistry) -> None:
    add(registry, 1)
    with pytest.raises(AdapterNameError):
        add(registry, 2, name="Not A Name")
    with pytest.raises(NotAllowedNow, match="stands for adapters of 'base', not of 'other'"):
        add(registry, 2, base_model="other")
    with pytest.raises(UnknownAdapter, match="no adapter safe@9"):
        registry.read(lambda c: read_adapter(c, "safe@9"))
    with pytest.raises(UnknownAdapter, match="nobody"):
        registry.change(lambda c: changes.roll_back(c, "nobody", "test", "why"))


def test_nothing_takes_traffic_without_its_gate_or_a_person(registry: AdapterRegistry) -> None:
    add(registry, 1, gate=None)
    add(registry, 2, gate={"promotes": False, "checks": ["over_refusal"]})
    for id, words in (("safe@1", "was never evaluated"), ("safe@2", "did not pass its gate")):
        for change in (
            lambda c, id=id: changes.promote(c, id, "test", None),
            lambda c, id=id: changes.start_canary(c, id, 0.1, "test", None),
        ):
            with pytest.raises(NotAllowedNow, match=words):
                registry.change(change)
    with pytest.raises(ValueError, match="needs the name"):
        registry.change(lambda c: changes.let_through(c, "safe@2", "", "why"))
    registry.change(lambda c: changes.let_through(c, "safe@2", "ada", "reviewed by hand"))
    registry.change(lambda c: changes.promote(c, "safe@2", "ada", None))
    adapter = registry.read(lambda c: read_adapter(c, "safe@2"))
    assert adapter.gate == {
        "promotes": True, "checks": ["over_refusal"], "override": {"by": "ada", "reason": "reviewed by hand"},
    }  # fmt: skip
    assert [(e.action, e.actor, e.reason) for e in registry.read(read_events)][:2] == [
        ("promoted", "ada", None),
        ("override", "ada", "reviewed by hand"),
    ]


def test_a_life_from_canary_to_retirement(registry: AdapterRegistry) -> None:
    for number in (1, 2, 3):
        add(registry, number)
    registry.change(lambda c: changes.promote(c, "safe@1", "test", None))
    canary = registry.change(lambda c: changes.start_canary(c, "safe@2", 0.1, "test", None))
    assert registry.change(lambda c: changes.start_canary(c, "safe@2", 0.5, "test", None)) == canary
    assert route(registry) == Route("public", "base", "safe@1", "safe@2", 0.5, canary_id=canary)
    with pytest.raises(NotAllowedNow, match="safe@2 is the candidate"):
        registry.change(lambda c: changes.start_canary(c, "safe@3", 0.1, "test", None))
    with pytest.raises(NotAllowedNow, match="takes traffic as canary"):
        registry.change(lambda c: changes.retire(c, "safe@2", "test", None))
    registry.change(lambda c: changes.promote(c, "safe@2", "test", None))
    assert states(registry) == {"safe@1": "standby", "safe@2": "champion", "safe@3": "registered"}
    assert route(registry) == Route("public", "base", "safe@2")
    registry.change(lambda c: changes.promote(c, "safe@3", "test", None))
    assert states(registry) == {"safe@1": "draining", "safe@2": "standby", "safe@3": "champion"}
    assert registry.change(lambda c: changes.roll_back(c, "public", "test", "regressed")) == "safe@3"
    assert states(registry) == {"safe@1": "draining", "safe@2": "champion", "safe@3": "draining"}
    registry.change(lambda c: changes.drained(c, "safe@1"))
    assert states(registry)["safe@1"] == "retired"
    assert registry.change(lambda c: changes.roll_back(c, "public", "test", "both bad")) == "safe@2"
    assert route(registry) == Route("public", "base"), "no adapter is left: the base model serves"
    with pytest.raises(NotAllowedNow, match="the base model already"):
        registry.change(lambda c: changes.roll_back(c, "public", "test", "again"))


def test_the_kill_switch_changes_nothing_else(registry: AdapterRegistry) -> None:
    add(registry, 1)
    registry.change(lambda c: changes.promote(c, "safe@1", "test", None))
    before = route(registry)
    registry.change(lambda c: changes.switch(c, "public", is_off=True, actor="test", reason="incident"))
    assert route(registry).is_off
    registry.change(lambda c: changes.switch(c, "public", is_off=False, actor="test", reason=None))
    assert route(registry) == before
    for target in ("public", "safe@1"):
        assert registry.change(partial(changes.route_of, target=target)).route == before


def canary_of(registry: AdapterRegistry, promote_after: int | None = None) -> int:
    for number in (1, 2):
        add(registry, number)
    registry.change(lambda c: changes.promote(c, "safe@1", "test", None))
    return registry.change(lambda c: changes.start_canary(c, "safe@2", 0.5, "test", None, promote_after))


def everybody(champion: Traffic, candidate: Traffic) -> watch.Counted:
    """Of clients that can't be told apart."""
    return {"champion": {"": champion}, "candidate": {"": candidate}}


def test_counts_of_several_proxies_add_up_and_a_worse_candidate_goes(registry: AdapterRegistry) -> None:
    id = canary_of(registry)
    for _ in range(2):
        counted = everybody(Traffic(30, 3, 1), Traffic(20, 12, 0))
        registry.change(partial(watch.add_traffic, canary_id=id, counted=counted))
    canary = registry.read(lambda c: read_canary(c, id))
    assert (canary.of_candidate, canary.of_champion) == (Traffic(40, 24, 0), Traffic(60, 6, 2))
    done = registry.change(lambda c: watch.judge(c, id, WatchLimits()))
    assert done is not None
    assert done.startswith("rolled back safe@2: 24 of 40 conversations halted, the champion's 6 of 60")
    assert states(registry) == {"safe@1": "champion", "safe@2": "draining"}
    assert registry.change(lambda c: watch.judge(c, id, WatchLimits())) is None
    late = everybody(Traffic(), Traffic(5))
    registry.change(lambda c: watch.add_traffic(c, id, late))
    assert registry.read(lambda c: read_canary(c, id)).of_candidate == Traffic(40, 24, 0), "an ended episode is closed"


def test_a_candidate_that_served_long_enough_is_promoted(registry: AdapterRegistry) -> None:
    id = canary_of(registry, promote_after=32)
    for conversations, expected in ((31, None), (1, "promoted safe@2")):
        counted = everybody(Traffic(conversations), Traffic(conversations))
        registry.change(partial(watch.add_traffic, canary_id=id, counted=counted))
        done = registry.change(lambda c: watch.judge(c, id, WatchLimits()))
        assert done is None if expected is None else (done or "").startswith(expected)
    assert states(registry) == {"safe@1": "standby", "safe@2": "champion"}


def test_many_looking_at_once_make_one_look(log_url: str, registry: AdapterRegistry) -> None:
    id = canary_of(registry)
    counted = everybody(Traffic(40), Traffic(40, 40))
    registry.change(lambda c: watch.add_traffic(c, id, counted))
    done: list[str | None] = []

    def judge() -> None:
        with AdapterRegistry.open(log_url) as own:
            done.append(own.change(lambda c: watch.judge(c, id, WatchLimits())))

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    assert sum(what is not None for what in done) == 1
    assert [e.action for e in registry.read(read_events)].count("rolled back") == 1


def test_two_that_register_at_once_get_two_numbers(log_url: str, registry: AdapterRegistry) -> None:
    made: list[str] = []

    def register(number: int) -> None:
        with AdapterRegistry.open(log_url) as own:
            made.append(add(own, number))

    threads = [threading.Thread(target=register, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["safe@1", "safe@2", "safe@3", "safe@4"]


def test_streams_of_living_processes_hold_a_version(registry: AdapterRegistry) -> None:
    with Presence(registry) as presence:
        registry.change(lambda c: watch.tell_usage(c, presence.owner_id, {"safe@1": 2, "safe@2": 0}))
        registry.change(lambda c: watch.tell_usage(c, "a process that died", {"safe@1": 7}))
        assert registry.read(lambda c: watch.streams_on(c, "safe@1")) == 2
        assert registry.read(lambda c: watch.streams_on(c, "safe@2")) == 0
        registry.change(lambda c: watch.tell_usage(c, presence.owner_id, {"safe@2": 1}))
        assert registry.read(lambda c: watch.streams_on(c, "safe@1")) == 0
    assert registry.read(lambda c: watch.streams_on(c, "safe@2")) == 0


def test_a_lock_is_held_by_one_and_left_behind_by_nobody(registry: AdapterRegistry) -> None:
    with held(registry, "safe"):
        with pytest.raises(NotAllowedNow, match="another bake of 'safe' has been running"), held(registry, "safe"):
            raise AssertionError("two hold it")
        with held(registry, "other"):
            pass
    with held(registry, "safe"):
        pass


def test_a_lock_of_a_process_that_was_killed_is_free(log_url: str, registry: AdapterRegistry) -> None:
    code = (
        "import os, signal, sys\n"
        "from proxy.adapters.lock import held\n"
        "from proxy.adapters.registry import AdapterRegistry\n"
        "with held(AdapterRegistry.open(sys.argv[1]), 'safe'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, log_url], timeout=PATIENCE_S, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert registry.read(lambda c: c.execute(select(bake_locks.c.name)).scalar()) == "safe"
    with held(registry, "safe"):
        pass

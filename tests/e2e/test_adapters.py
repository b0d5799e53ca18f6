"""Adapters in service on real ports: routing, hot swap under running streams, canaries, lost adapters, two proxies."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import select

from proxy.adapters import changes
from proxy.adapters.changes import NewAdapter
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.rows import read_adapters, read_events
from proxy.log.tables import requests
from steer.adapter import passing_name
from tests.e2e.harness import Reply, RunningProxy, running_proxy
from tests.patience import PATIENCE_S
from tests.proxy.lora_upstream import LoraUpstream, adapter_of
from tests.upstream import Fault, Generation, Script, Trace, on_resume

QUICK = {"refresh_s": 0.05}


def says(generation: Generation) -> Trace:
    """Every adapter says its own name, in reasoning and answer."""
    name = adapter_of(generation) or "base"
    return Trace(f"\nI am {name}. I think about it.\n", f"\n\nThis is {name}.")


def goes_on(generation: Generation) -> Trace:
    name = adapter_of(generation) or "base"
    return Trace(f" I am still {name}.\n", f"\n\nThis is {name}.")


SCRIPT = Script(trace=says, continuation=goes_on, opens_think=True)


class Desk:
    """The registry of a test, and how to wait for what the proxies make of it."""

    def __init__(self, registry: AdapterRegistry, upstream: LoraUpstream) -> None:
        self.registry = registry
        self.upstream = upstream

    def add(self, number: int) -> str:
        new = NewAdapter("safe", "public", "scripted", f"/files/{number}", f"sha{number}", {}, {"promotes": True})
        return self.registry.change(lambda c: changes.register(c, new, "test"))

    def promote(self, id: str) -> None:
        self.registry.change(lambda c: changes.promote(c, id, "test", None))

    def canary(self, id: str, weight: float, promote_after: int | None = None) -> None:
        self.registry.change(lambda c: changes.start_canary(c, id, weight, "test", None, promote_after))

    def states(self) -> dict[str, str]:
        return {adapter.id: str(adapter.state) for adapter in self.registry.read(read_adapters)}

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not is_so():  # noqa: ASYNC110 - a database rings no bell
                await anyio.sleep(0.02)


@asynccontextmanager
async def desk_with(
    folder: Path, script: Script = SCRIPT, proxies: int = 1, log_url: str | None = None, **sections: Any
) -> AsyncIterator[tuple[Desk, list[RunningProxy]]]:
    url = log_url or f"sqlite:///{folder}/log.sqlite"
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(LoraUpstream(script))
        registry = stack.enter_context(AdapterRegistry.open(url))
        running = [
            await stack.enter_async_context(
                running_proxy(upstream.url, folder, log={"url": url}, adapters=QUICK | sections.get("adapters", {}))
            )
            for _ in range(proxies)
        ]
        yield Desk(registry, upstream), running


async def is_served_by(proxy: RunningProxy, name: str) -> None:
    """Waits until a fresh request on the alias is answered by `name`."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            reply = await proxy.chat(model="public")
            if reply.status == 200 and reply.content == f"\n\nThis is {name}.":
                return
            await anyio.sleep(0.02)


async def test_an_alias_leads_to_its_champion_and_versions_are_not_clients_to_choose(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as (desk, [proxy]):
        assert (await proxy.chat(model="public")).status == 404, "no such alias yet: the engine says so itself"
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        reply = await proxy.chat(model="public")
        assert reply.headers["x-steer-adapter"] == "safe@1"
        assert reply.reasoning == "\nI am safe@1. I think about it.\n"
        whole = await proxy.chat(model="public", stream=False)
        assert whole.headers["x-steer-adapter"] == "safe@1"
        plain = await proxy.chat(model="scripted")
        assert "x-steer-adapter" not in plain.headers
        assert plain.content == "\n\nThis is base."
        refused = await proxy.chat(model="safe@1")
        assert refused.status == 404
        assert refused.body["error"]["code"] == "model_not_found"
        listed = (await proxy.get("/v1/models")).body["data"]
        assert [model["id"] for model in listed] == ["scripted", "public"]


async def test_a_candidate_that_is_being_evaluated_is_neither_shown_nor_given_to_clients(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as (desk, [proxy]):
        lent = passing_name("safe", "f" * 64)
        desk.upstream.adapters[lent] = "/files/unproven"
        for _ in range(2):  # without any route, and with one
            refused = await proxy.chat(model=lent, stream=False)
            assert (refused.status, refused.body["error"]["code"]) == (404, "model_not_found")
            assert lent not in str((await proxy.get("/v1/models")).body)
            assert not [asked for asked in desk.upstream.requests if lent in str(asked.body)]
            desk.promote(desk.add(1))
            await is_served_by(proxy, "safe@1")


async def test_a_halted_stream_resumes_on_its_own_adapter_and_is_recorded_with_it(tmp_path: Path) -> None:
    def cue(generation: Generation) -> Trace:
        return Trace(f"\nI am {adapter_of(generation)}. A CUE is here.\n", "\n\nNever shown.")

    async with desk_with(tmp_path, Script(trace=cue, continuation=goes_on, opens_think=True)) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await desk.until(lambda: "safe@1" in desk.upstream.adapters)
        await is_served_by(proxy, "safe@1")
        reply = await proxy.chat("another question", model="public")
        assert "I am still safe@1." in reply.reasoning
        assert adapter_of(desk.upstream.resumes[-1]) == "safe@1"
        record = (await proxy.records())[-1]
        assert (record.model, record.adapter, record.outcome) == ("scripted", "safe@1", "completed")


async def test_ten_streams_run_through_a_hot_swap_without_being_dropped_or_mixed(tmp_path: Path) -> None:
    def long(generation: Generation) -> Trace:
        name = adapter_of(generation) or "base"
        return Trace(f"\nI am {name}." * 20 + "\n", f"\n\nThis is {name}.")

    async with desk_with(tmp_path, Script(trace=long, opens_think=True)) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        desk.upstream.gate = gate = anyio.Event()
        begun: list[int] = []
        replies: list[bytes] = []

        async def stream(number: int) -> None:
            async with proxy.stream(f"question {number}", model="public") as live:
                await live.until("reasoning")
                begun.append(number)
                await live.until("[DONE]")
                replies.append(live.raw)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(stream, number)
            await desk.until(lambda: len(begun) == 10)
            desk.upstream.gate = None
            for number in (2, 3):  # the champion of the running streams is two versions back then: it drains
                desk.promote(desk.add(number))
            await is_served_by(proxy, "safe@3")
            assert desk.states()["safe@1"] == "draining"
            gate.set()
        for raw in replies:
            assert Reply(200, {}, raw).reasoning == "\nI am safe@1." * 20 + "\n"
            assert raw.endswith(b"data: [DONE]\n\n")
        await desk.until(lambda: desk.states()["safe@1"] == "retired")
        assert desk.upstream.loads == [("load", "safe@1"), ("load", "safe@2"), ("load", "safe@3"), ("unload", "safe@1")]
        assert desk.upstream.unloaded_under == set()


async def test_conversations_stick_to_their_side_of_a_canary(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        desk.canary(desk.add(2), 0.5)
        await desk.until(lambda: "safe@2" in desk.upstream.adapters)

        async def side_of(number: int) -> str:
            return (await proxy.chat(f"question {number}", model="public")).headers["x-steer-adapter"]

        asked = 0
        with anyio.fail_after(PATIENCE_S):
            while await side_of(asked) != "safe@2":  # until the proxy has seen the canary
                asked += 1
        sides = {number: {await side_of(number) for _ in range(2)} for number in range(asked + 12)}
        assert all(len(side) == 1 for side in sides.values())
        assert {"safe@1", "safe@2"} == {name for side in sides.values() for name in side}


async def test_a_candidate_that_breaks_is_rolled_back_by_its_traffic(tmp_path: Path) -> None:
    def fault(generation: Generation) -> Fault | None:
        return Fault(status=500) if adapter_of(generation) == "safe@2" and not generation.is_probe else None

    script = Script(trace=says, opens_think=True, fault=fault)
    async with desk_with(tmp_path, script, adapters={"first_look": 8}) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        desk.canary(desk.add(2), 0.5)
        asked = 0
        with anyio.fail_after(PATIENCE_S):
            while desk.states()["safe@2"] == "canary":
                reply = await proxy.chat(f"question {asked}", model="public")
                assert (reply.status, reply.is_complete) == (200, True), (
                    "the champion answers where the candidate fails"
                )
                asked += 1
        [event] = [e for e in desk.registry.read(read_events) if e.action == "rolled back"]
        assert event.actor == "proxy"
        assert "conversations failed, the champion's 0 of" in (event.reason or "")
        await desk.until(lambda: desk.states()["safe@2"] == "retired")
        assert (await proxy.chat("any", model="public")).headers["x-steer-adapter"] == "safe@1"


async def test_a_candidate_that_breaks_after_a_halt_costs_a_stream_its_end_and_a_body_nothing(tmp_path: Path) -> None:
    def cue(generation: Generation) -> Trace:
        halts = adapter_of(generation) == "safe@2"
        return Trace("\nA CUE is here.\n", "\n\nNever shown.") if halts else says(generation)

    script = Script(trace=cue, continuation=goes_on, opens_think=True, fault=on_resume(Fault("rst")))
    async with desk_with(tmp_path, script) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        desk.canary(desk.add(2), 1.0)
        with anyio.fail_after(PATIENCE_S):
            while (broken := await proxy.chat("a question", model="public")).headers["x-steer-adapter"] != "safe@2":
                pass
        assert broken.is_complete
        assert "error" in broken.chunks[-1]
        whole = await proxy.chat("a question", model="public", stream=False)
        said = whole.body["choices"][0]["message"]["content"]
        assert (whole.headers["x-steer-adapter"], said) == ("safe@1", "\n\nThis is safe@1.")
        records = (await proxy.settled(2))[-2:]
        assert {(record.adapter, record.outcome) for record in records} == {("safe@2", "upstream_failed")}
        assert records[1].request_id != whole.headers["x-request-id"], "two answers, two accounts"
        await desk.until(lambda: whole.headers["x-request-id"] in counted(desk.registry))
        assert counted(desk.registry)[whole.headers["x-request-id"]] == 0


def counted(registry: AdapterRegistry) -> dict[str, int]:
    """Interventions of each request in the log."""
    query = select(requests.c.request_id, requests.c.interventions)
    return {row[0]: row[1] for row in registry.read(lambda connection: connection.execute(query).all())}


async def test_a_candidate_that_serves_well_is_promoted(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        desk.canary(desk.add(2), 0.5, promote_after=5)
        asked = 0
        with anyio.fail_after(PATIENCE_S):
            while desk.states()["safe@2"] == "canary":
                await proxy.chat(f"question {asked}", model="public")
                asked += 1
        assert desk.states() == {"safe@1": "standby", "safe@2": "champion"}
        await is_served_by(proxy, "safe@2")


async def test_an_engine_that_restarts_serves_on_and_gets_its_adapters_back(tmp_path: Path) -> None:
    async with desk_with(tmp_path, adapters={"refresh_s": 0.3}) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        desk.upstream.restart()
        reply = await proxy.chat("right after", model="public")
        assert reply.status == 200
        assert reply.content in ("\n\nThis is base.", "\n\nThis is safe@1.")
        await is_served_by(proxy, "safe@1")
        assert desk.upstream.loads == [("load", "safe@1")] * 2


async def test_what_the_engine_refuses_to_load_is_no_candidate_for_long(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        desk.upstream.refuses.add("/files/2")
        desk.canary(desk.add(2), 1.0)
        await desk.until(lambda: desk.states()["safe@2"] != "canary")
        [event] = [e for e in desk.registry.read(read_events) if e.action == "rolled back"]
        assert "will not load safe@2" in (event.reason or "")
        await is_served_by(proxy, "safe@1")


async def test_files_that_the_engine_cannot_read_are_no_candidate_for_long_and_keep_nothing_else_out(
    tmp_path: Path,
) -> None:
    async with desk_with(tmp_path) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        desk.upstream.breaks_on.add("/files/2")
        desk.canary(desk.add(2), 1.0)
        await desk.until(lambda: desk.states()["safe@2"] != "canary")
        [event] = [e for e in desk.registry.read(read_events) if e.action == "rolled back"]
        assert "will not load safe@2: status 500" in (event.reason or "")
        desk.upstream.restart()
        await desk.until(lambda: "safe@1" in desk.upstream.adapters)
        await is_served_by(proxy, "safe@1")


async def test_an_engine_that_is_dying_has_refused_nothing(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as (desk, [proxy]):
        desk.promote(desk.add(1))
        await is_served_by(proxy, "safe@1")
        desk.upstream.is_dying = True
        desk.canary(desk.add(2), 1.0)
        await desk.until(lambda: desk.upstream.loads.count(("break", "safe@2")) >= 3)
        assert desk.states()["safe@2"] == "canary"
        desk.upstream.is_dying = False
        await is_served_by(proxy, "safe@2")


async def test_two_proxies_on_one_log_see_changes_within_seconds_and_lose_no_request(
    log_url: str, tmp_path: Path
) -> None:
    async with desk_with(tmp_path, proxies=2, log_url=log_url, adapters={"refresh_s": 0.2}) as (desk, proxies):
        desk.promote(desk.add(1))
        for proxy in proxies:
            await is_served_by(proxy, "safe@1")
        lost, served = [], 0
        ending = anyio.Event()

        async def ask_on(number: int) -> None:
            nonlocal served
            while not ending.is_set():
                reply = await proxies[number % 2].chat(f"question {number}", model="public")
                served += 1
                if reply.status != 200 or not reply.is_complete:
                    lost.append(reply)

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(ask_on, number)
            desk.promote(desk.add(2))
            with anyio.fail_after(PATIENCE_S):
                for proxy in proxies:
                    await is_served_by(proxy, "safe@2")
            desk.registry.change(lambda c: changes.roll_back(c, "public", "test", "regressed"))
            with anyio.fail_after(PATIENCE_S):
                for proxy in proxies:
                    await is_served_by(proxy, "safe@1")
            desk.registry.change(lambda c: changes.switch(c, "public", is_off=True, actor="test", reason="incident"))
            with anyio.fail_after(PATIENCE_S):
                for proxy in proxies:
                    await is_served_by(proxy, "base")
            await desk.until(lambda: desk.states()["safe@2"] == "retired" and served > 50)
            ending.set()
        assert lost == []
        assert desk.upstream.unloaded_under == set()
        assert desk.upstream.loads.count(("load", "safe@1")) == 1, "one proxy loads, the other finds it there"


@pytest.mark.parametrize("streams", [True, False])
async def test_a_proxy_without_adapters_asks_the_engine_nothing(tmp_path: Path, streams: bool) -> None:
    async with desk_with(tmp_path) as (desk, [proxy]):
        assert (await proxy.chat(stream=streams)).status == 200
        assert {request.path for request in desk.upstream.requests} <= {
            "/v1/models", "/v1/chat/completions", "/v1/completions", "/tokenize",
            "/v1/chat/completions/render", "/inference/v1/generate",
        }  # fmt: skip
        assert [request.path for request in desk.upstream.requests].count("/v1/models") == 1

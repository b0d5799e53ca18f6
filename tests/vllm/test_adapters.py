"""Adapters on a real engine: loaded under their names, swapped under running streams, lost and brought back."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from proxy.adapters import changes
from proxy.adapters.changes import NewAdapter
from proxy.adapters.engine import AdapterEngine
from proxy.adapters.errors import EngineRefused
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.rows import read_adapters
from proxy.upstream import UpstreamClient
from tests.e2e.harness import Reply, RunningProxy, running_proxy
from tests.patience import PATIENCE_S
from tests.train.test_adapters import random_adapter
from tests.vllm.fixture import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.anyio, pytest.mark.timeout(600)]

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
STREAMS = 10


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - a database rings no bell
            await anyio.sleep(0.05)


async def served_by(proxy: RunningProxy, adapter: str) -> Reply:
    """A reply on the alias, once that version answers."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            reply = await proxy.chat(model="public", **GREEDY)
            if reply.headers.get("x-steer-adapter") == adapter:
                return reply
            await anyio.sleep(0.05)


async def test_versions_are_swapped_under_streams_lost_and_brought_back(
    vllm_server: VllmServer, tmp_path: Path
) -> None:
    assert vllm_server.model_dir is not None
    model = vllm_server.model
    paths = [random_adapter(vllm_server.model_dir, tmp_path / f"{n}", seed=n) for n in (1, 2)]
    with AdapterRegistry.open(f"sqlite:///{tmp_path}/log.sqlite") as registry:
        for number, path in enumerate(paths):
            new = NewAdapter("swap", "public", model, str(path), f"{number}", {}, {"promotes": True})
            registry.change(partial(changes.register, new=new, actor="test"))

        def state(id: str) -> str:
            return {adapter.id: str(adapter.state) for adapter in registry.read(read_adapters)}[id]

        async with (
            UpstreamClient(vllm_server.url) as client,
            running_proxy(vllm_server.url, tmp_path, adapters={"refresh_s": 0.2}) as proxy,
        ):
            engine = AdapterEngine(client)
            with pytest.raises(EngineRefused, match="will not load swap@9"):
                await engine.load("swap@9", str(tmp_path / "nowhere"))
            registry.change(lambda c: changes.promote(c, "swap@1", "test", None))
            first = await served_by(proxy, "swap@1")
            base = await proxy.chat(model=model, **GREEDY)
            assert first.reasoning + first.content != base.reasoning + base.content, "the weights are not the base's"
            replies: list[bytes] = []
            begun: list[int] = []

            async def stream(number: int) -> None:
                body: dict[str, Any] = {"temperature": 1, "seed": number, "max_tokens": 400, "ignore_eos": True}
                async with proxy.stream(f"question {number}", model="public", **body) as live:
                    await live.until("reasoning")
                    begun.append(number)
                    await live.until("[DONE]")
                    replies.append(live.raw)

            async with anyio.create_task_group() as tasks:
                for number in range(STREAMS):
                    tasks.start_soon(stream, number)
                await until(lambda: len(begun) == STREAMS)
                registry.change(lambda c: changes.promote(c, "swap@2", "test", None))
                registry.change(lambda c: changes.retire(c, "swap@1", "test", None))
                await served_by(proxy, "swap@2")
            assert len(replies) == STREAMS
            for raw in replies:
                reply = Reply(200, {}, raw)
                assert reply.is_complete
                assert {chunk["model"] for chunk in reply.chunks} == {"swap@1"}
            await until(lambda: state("swap@1") == "retired")
            assert await engine.holds() & {"swap@1", "swap@2"} == {"swap@2"}
            await engine.unload("swap@2")  # as a restart would
            assert (await proxy.chat(model="public", **GREEDY)).status == 200
            await served_by(proxy, "swap@2")
            registry.change(lambda c: changes.roll_back(c, "public", "test", "done"))
            await until(lambda: state("swap@2") == "retired")

"""A client's key goes to the engine with that client's own requests, and with no other's."""

from pathlib import Path

import pytest

from tests.e2e.harness import running_proxy
from tests.upstream import Script, ScriptedUpstream, Trace

pytestmark = pytest.mark.anyio

TRACE = Trace("\nLet me think. CUE is here. And on.\n", "\n\nNo.")


async def test_every_call_to_the_engine_carries_the_key_of_the_request_behind_it(tmp_path: Path) -> None:
    # Several tokens a frame: the cut needs /detokenize, and a second client's resume finds the triggers' ids cached.
    script = Script(trace=TRACE, tokens_per_frame=5)
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        for key in ("first", "second"):
            before = len(upstream.requests)
            reply = await proxy.chat(headers={"Authorization": f"Bearer {key}"})
            assert reply.status == 200
            sent = {request.headers.get("authorization") for request in upstream.requests[before:]}
            assert sent == {f"Bearer {key}"}


async def test_the_operators_key_replaces_the_clients(tmp_path: Path) -> None:
    async with ScriptedUpstream(Script(trace=TRACE)) as upstream:
        settings = {"url": upstream.url, "api_key": "operator"}
        async with running_proxy(upstream.url, tmp_path, upstream=settings) as proxy:
            await proxy.chat(headers={"Authorization": "Bearer client"})
            assert {request.headers.get("authorization") for request in upstream.requests} == {"Bearer operator"}

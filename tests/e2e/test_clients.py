"""Clients as they are: both major versions of the OpenAI SDK, curl, and a socket that deals in single bytes."""

import asyncio
import gc
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from anyio.from_thread import start_blocking_portal

from steer.policy import DEFAULT_REFUSAL
from tests.e2e.harness import CUE, RunningProxy, running_proxy
from tests.patience import PATIENCE_S
from tests.upstream import Fault, Script, ScriptedUpstream, Trace, on_chat
from tests.upstream.wire import dump

HALTED = Script(Trace(f"\nOkay, let me think. {CUE} comes now. SECRET.\n", "\n\nSECRET answer."))
MESSAGES: Any = [{"role": "user", "content": "Hello"}]
SAFE = "\n\nHere is a safe answer."
SDK_2 = "openai==2.54.0"


@contextmanager
def served(folder: Path, script: Script = HALTED, **sections: Any) -> Iterator[tuple[ScriptedUpstream, RunningProxy]]:
    """Upstream and proxy in a thread, for clients that block."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(ScriptedUpstream(script)) as upstream,
        portal.wrap_async_context_manager(running_proxy(upstream.url, folder, **sections)) as proxy,
    ):
        yield upstream, proxy


def sdk(proxy: RunningProxy) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="sk-client", max_retries=0)


def joined(chunks: Any) -> tuple[str, str, str | None]:
    reasoning, content, reason = "", "", None
    for chunk in chunks:
        for choice in chunk.choices:
            reasoning += getattr(choice.delta, "reasoning", None) or ""
            content += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return reasoning, content, reason


def test_the_sdk_reads_streams_and_bodies_as_from_any_engine(tmp_path: Path) -> None:
    with served(tmp_path) as (upstream, proxy), sdk(proxy) as client:
        with client.chat.completions.create(model="scripted", messages=MESSAGES, stream=True) as stream:
            reasoning, content, reason = joined(stream)
        assert reasoning.startswith("\nOkay, let me think. ")
        assert "SECRET" not in reasoning + content
        assert (content, reason) == (SAFE, "stop")
        body = client.chat.completions.create(model="scripted", messages=MESSAGES)
        assert body.choices[0].message.content == SAFE
        assert body.usage is not None
        assert body.usage.total_tokens == body.usage.prompt_tokens + body.usage.completion_tokens
        raw = client.chat.completions.with_raw_response.create(model="scripted", messages=MESSAGES)
        assert raw.headers["x-request-id"].startswith("req-")
        assert raw.parse().choices[0].message.content == SAFE
        told = client.chat.completions.create(
            model="scripted", messages=MESSAGES, extra_body={"steer": {"show_interventions": True}}
        )
        assert told.model_extra is not None
        assert told.model_extra["steer"][0]["event"] == "intervention"
        with client.chat.completions.stream(model="scripted", messages=MESSAGES) as helper:
            assert helper.get_final_completion().choices[0].message.content == SAFE
        assert [model.id for model in client.models.list()] == ["scripted"]
        assert {item.headers["authorization"] for item in upstream.requests} == {"Bearer sk-client"}


def test_the_sdk_sees_refusals_as_an_ordinary_end(tmp_path: Path) -> None:
    with (
        served(tmp_path, policy={"max_interventions": 0}) as (_, proxy),
        sdk(proxy) as client,
        client.chat.completions.create(model="scripted", messages=MESSAGES, stream=True) as stream,
    ):
        assert joined(stream)[1:] == (DEFAULT_REFUSAL, "content_filter")


async def test_the_asynchronous_sdk_works_too(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(HALTED) as upstream,
        running_proxy(upstream.url, tmp_path) as proxy,
        openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="x", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(model="scripted", messages=MESSAGES, stream=True)
        async with stream:
            assert joined([chunk async for chunk in stream])[1:] == (SAFE, "stop")
        body = await client.chat.completions.create(model="scripted", messages=MESSAGES, n=2)
        assert [choice.message.content for choice in body.choices] == [SAFE, SAFE]


def test_errors_become_the_exceptions_that_a_program_expects(tmp_path: Path) -> None:
    with served(tmp_path) as (upstream, proxy), sdk(proxy) as client:
        for stream in (True, False):

            def ask(model: str = "scripted", is_streamed: bool = stream, **body: Any) -> Any:
                return client.chat.completions.create(model=model, messages=MESSAGES, stream=is_streamed, **body)

            with pytest.raises(openai.NotFoundError, match="unknown"):
                ask("unknown")
            with pytest.raises(openai.BadRequestError, match="chat_template") as refused:
                ask(extra_body={"chat_template": "x"})
            assert refused.value.param == "chat_template"
            for status, kind in (
                (401, openai.AuthenticationError),
                (429, openai.RateLimitError),
                (500, openai.InternalServerError),
            ):
                body = dump({"error": {"message": "own words", "type": "X", "param": None, "code": None}})
                upstream.script = Script(fault=on_chat(Fault(status=status, body=body)))
                with pytest.raises(kind, match="own words"):
                    ask()
            upstream.script = HALTED
        upstream.script = Script(fault=on_chat(Fault("rst", after_frames=4)))
        with (
            client.chat.completions.create(model="scripted", messages=MESSAGES, stream=True) as broken,
            pytest.raises(openai.APIError, match="upstream"),
        ):
            list(broken)


_OTHER_SDK = """
import asyncio, sys, openai
assert openai.__version__.startswith("2."), openai.__version__
url, messages = sys.argv[1], [{"role": "user", "content": "Hello"}]
client = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
text = "".join(c.choices[0].delta.content or "" for c in
               client.chat.completions.create(model="scripted", messages=messages, stream=True) if c.choices)
body = client.chat.completions.create(model="scripted", messages=messages)
assert text == body.choices[0].message.content == "\\n\\nHere is a safe answer.", text
try:
    client.chat.completions.create(model="unknown", messages=messages)
except openai.NotFoundError as error:
    assert "unknown" in str(error)
async def other():
    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(model="scripted", messages=messages, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices]) == text
asyncio.run(other())
"""


@pytest.fixture(scope="session")
def other_sdk(request: pytest.FixtureRequest) -> Path:
    """The SDK's version 2 in a folder of its own, kept between runs."""
    folder = Path(request.config.cache.mkdir("openai-2")) / SDK_2.partition("==")[2]
    if not (folder / "openai").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), SDK_2]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip(f"cannot install {SDK_2}: {done.stderr.strip()[-200:]}")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_version_2_of_the_sdk_works_as_well(tmp_path: Path, other_sdk: Path) -> None:
    with served(tmp_path) as (_, proxy):
        command = [sys.executable, "-W", "ignore", "-c", _OTHER_SDK, f"{proxy.url}/v1"]
        done = subprocess.run(
            command, env={"PYTHONPATH": str(other_sdk)}, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_gets_its_events_one_by_one(tmp_path: Path) -> None:
    data = json.dumps({"model": "scripted", "messages": MESSAGES, "stream": True})
    with served(tmp_path, Script(HALTED.trace, delay_ms=5)) as (_, proxy):
        url = f"{proxy.url}/v1/chat/completions"
        command = ["curl", "-sS", "-N", "-i", url, "-H", "Content-Type: application/json", "-d", data]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True)
        plain = subprocess.run(
            ["curl", "-sS", "-f", f"{proxy.url}/nowhere"], capture_output=True, timeout=PATIENCE_S, check=False
        )
    assert done.stdout.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"SECRET" not in done.stdout
    assert done.stdout.endswith(b"data: [DONE]\n\n")
    assert plain.returncode == 22


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_deals_in_single_bytes_is_served(tmp_path: Path, stream: bool) -> None:
    body = dump({"model": "scripted", "messages": MESSAGES, "stream": stream})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    sized = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    async with ScriptedUpstream(HALTED) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        for request in (head + sized, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked):
            port = int(proxy.url.rpartition(":")[2])
            async with await anyio.connect_tcp("127.0.0.1", port) as connection:
                for byte in request:
                    await connection.send(bytes([byte]))
                received = bytearray()
                with anyio.fail_after(PATIENCE_S):
                    while True:
                        try:
                            received += await connection.receive(1)
                        except anyio.EndOfStream:
                            break
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"SECRET" not in received
            assert b"safe" in received
            assert (b"data: [DONE]" in received) == stream


async def test_small_chunks_are_not_held_back_by_either_socket(tmp_path: Path) -> None:
    """Nagle's algorithm with delayed acknowledgements would add 40 ms: every second small write would wait."""
    script = Script(Trace("\nOkay. Fine. Good. Right. Sure.\n", "\n\nDone."), delay_ms=60)
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        await proxy.chat(max_tokens=1)
        async with proxy.stream() as live:
            await live.event()  # the role
            await live.event()
            sockets = list(_sockets_of_this_process())
            assert len(sockets) >= 3, "client's, proxy's two, upstream's"
            assert all(sockets), "TCP_NODELAY is set on every connection of the event loop"
            live.close()


def _sockets_of_this_process() -> Iterator[bool]:
    for item in gc.get_objects():
        # By type: isinstance asks lazy modules for their class, and other tests' libraries answer with warnings.
        if issubclass(type(item), asyncio.Transport) and not item.is_closing():
            raw = item.get_extra_info("socket")
            if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6) and item.get_extra_info("peername"):
                yield bool(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

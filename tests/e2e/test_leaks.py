"""An attacker's view: frames that try to carry a cue past the detector, and requests that try to break the proxy."""

import itertools
import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.e2e.harness import CUE, ENDING, OPENING, OddUpstream, Reply, chunk, running_proxy
from tests.patience import PATIENCE_S
from tests.upstream import Script, ScriptedUpstream, ToolCall, Trace
from tests.upstream.wire import dump

pytestmark = pytest.mark.anyio

SAFE = chunk({"reasoning": "Okay. "}, token_ids=[11])


def odd_call(arguments: str) -> dict[str, Any]:
    return {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}


def entry(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -1.0, "bytes": list(token.encode()), "top_logprobs": []}


UNREAD: dict[str, Any] = {
    "refusal": chunk({"refusal": CUE}),
    "audio": chunk({"audio": {"transcript": CUE}}),
    "function_call": chunk({"function_call": {"name": "f", "arguments": CUE}}),
    "reasoning_details": chunk({"reasoning_details": [{"text": CUE}]}),
    "thinking": chunk({"content": "x", "thinking": CUE}),
    "choice text": chunk({"content": ""}, text=CUE),
    "choice message": chunk({"content": ""}, matched=CUE),
    "two names": chunk({"reasoning": "Fine. ", "reasoning_content": f"{CUE} now. "}),
    "logprobs ahead": chunk({"reasoning": ""}, logprobs={"content": [entry(CUE)]}),
    "logprobs of more": chunk({"reasoning": "ok"}, logprobs={"content": [entry("ok"), entry(CUE)]}),
    "second choice": OPENING | {"choices": [SAFE["choices"][0], chunk({"content": CUE}, index=1)["choices"][0]]},
    "another choice": chunk({"content": CUE}, index=1),
    "content list": chunk({"content": [{"type": "text", "text": CUE}]}),
    "reasoning object": chunk({"reasoning": {"text": CUE}}),
    "call in reasoning": chunk({"tool_calls": {"x": CUE}}),
    "bad choices": {"choices": {"0": CUE}},
    "bad delta": chunk([CUE]),
    "no choices": {"choices": "CUE"},
}


@pytest.mark.parametrize("mode", ["hold"])
@pytest.mark.parametrize("kind", UNREAD)
async def test_text_in_places_that_are_not_read_is_not_forwarded(tmp_path: Path, kind: str, mode: str) -> None:
    frames = [OPENING, SAFE, UNREAD[kind], chunk({"reasoning": f" Then {CUE} comes. "}, token_ids=[12]), ENDING]
    async with OddUpstream(*frames) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        for body in ({}, {"logprobs": True}, {"return_token_ids": True}, {"n": 2}):
            reply = await proxy.chat(**body)
            assert CUE.encode() not in reply.raw, (body, reply.raw)
            assert reply.is_complete


async def test_a_frame_whose_ids_run_ahead_of_its_text_waits_for_the_text(tmp_path: Path) -> None:
    frames = [
        OPENING,
        SAFE,
        chunk({}, token_ids=[4242]),
        chunk({"reasoning": f"{CUE} it is. "}, token_ids=[12]),
        ENDING,
    ]
    async with OddUpstream(*frames) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(return_token_ids=True)
    assert b"4242" not in reply.raw


MESSAGES: dict[str, Any] = {
    "refusal": {"role": "assistant", "content": "Fine.", "refusal": CUE},
    "details": {"role": "assistant", "content": "Fine.", "reasoning_details": [{"text": CUE}]},
    "two names": {"role": "assistant", "content": "Fine.", "reasoning": "Ok.", "reasoning_content": CUE},
    "content list": {"role": "assistant", "content": [{"type": "text", "text": CUE}]},
    "call without thought": {"role": "assistant", "content": None, "tool_calls": [odd_call(CUE)]},
}


@pytest.mark.parametrize("kind", MESSAGES)
async def test_text_in_places_of_a_body_that_are_not_read_is_not_forwarded(tmp_path: Path, kind: str) -> None:
    choice = {"index": 0, "message": MESSAGES[kind], "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "scripted", "choices": [choice]}
    twice = body | {"choices": [choice, choice]}
    async with OddUpstream(body=body) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        for upstream.body in (body, twice):
            reply = await proxy.chat(stream=False)
            assert CUE.encode() not in reply.raw
            assert reply.status in (200, 502)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reasoning", [None, "\nFine.\n"])
async def test_arguments_of_tool_calls_are_judged_where_the_answer_is(
    tmp_path: Path, stream: bool, reasoning: str | None
) -> None:
    trace = Trace(reasoning, "\n\nLooking.", (ToolCall("f", json.dumps({"a": f"{CUE} here"})),))
    tool = {"type": "function", "function": {"name": "f"}}
    async with (
        ScriptedUpstream(Script(trace)) as upstream,
        running_proxy(upstream.url, tmp_path, policy={"scope": "all"}) as proxy,
    ):
        reply = await proxy.chat(stream=stream, tools=[tool])
        upstream.script = Script(Trace(f"\n{CUE}.\n", ""), continuation=lambda _: trace)
        resumed = await proxy.chat(stream=stream, tools=[tool])
        records = await proxy.records()
    for got in (reply, resumed):
        assert CUE.encode() not in got.raw
        assert got.status == 200
        reason = got.finish_reasons[-1] if stream else got.body["choices"][0]["finish_reason"]
        assert reason in ("content_filter", "stop")
    assert {record.outcome for record in records} <= {"refused", "completed", "halted_again"}


async def test_a_calm_tool_call_without_thought_passes_as_it_came(tmp_path: Path) -> None:
    trace = Trace(None, "Looking.", (ToolCall("f", '{"a": "today. And then. Really"}'),))
    tool = {"type": "function", "function": {"name": "f"}}
    async with ScriptedUpstream(Script(trace)) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(tools=[tool])
    deltas = [choice["delta"] for part in reply.chunks for choice in part["choices"]]
    said = "".join(
        call["function"].get("arguments") or "" for delta in deltas for call in delta.get("tool_calls") or []
    )
    assert json.loads(said) == {"a": "today. And then. Really"}
    assert reply.finish_reasons == ["tool_calls"]


@pytest.mark.parametrize("mode", ["hold", "tap", "monitor"])
async def test_odd_json_from_the_engine_ends_the_stream_cleanly(tmp_path: Path, mode: str) -> None:
    odd: list[Any] = [
        b"[" * 100_000,
        b"9" * 100_000,
        b'{"choices":[' + b"9" * 5000 + b"]}",
        [1],
        "text",
        chunk({"reasoning": 5}),
        chunk({"reasoning": "x"}, token_ids="abc"),
        chunk({"reasoning": "x"}, token_ids=[True, 1.5]),
        chunk({"reasoning": "x"}, logprobs=["x"]),
        chunk({"reasoning": "x"}, logprobs={"content": ["x"]}),
        chunk({"reasoning": "x"}, finish_reason={"a": 1}),
        chunk({"reasoning": "x"}, finish_reason="error"),
        chunk({"tool_calls": [[]]}),
        chunk({"tool_calls": [{"function": {"arguments": 5}}]}),
        b'{"choices":[{"index":0,"delta":{"reasoning":"\\ud800"}}]}',
        chunk({"reasoning": "x"}) | {"prompt_token_ids": {}},
        chunk(5),
    ]
    usage: list[Any] = [5, {"prompt_tokens": "x"}, {"completion_tokens_details": 5}, {"prompt_tokens": 2.5}]
    async with OddUpstream() as upstream, running_proxy(upstream.url, tmp_path, policy={"mode": mode}) as proxy:
        for frame in odd:
            upstream.frames = [
                dump(OPENING),
                dump(SAFE),
                frame if isinstance(frame, bytes) else dump(frame),
                dump(ENDING),
            ]
            reply = await proxy.chat()
            assert reply.is_complete, (frame, reply.raw)
            assert "upstream" in reply.chunks[-1].get("error", {"message": ""})["message"], (frame, reply.raw)
            many = await proxy.chat(n=2)
            assert many.is_complete
        for value, stream in itertools.product(usage, (True, False)):
            upstream.frames = [
                dump(part) for part in (OPENING, SAFE, ENDING, OPENING | {"choices": [], "usage": value})
            ]
            upstream.body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": value}
            for count in (1, 2):
                reply = await proxy.chat(stream=stream, n=count, **({"stop": "x"} if count == 2 else {}))  # type: ignore[arg-type]
                assert reply.status == 200, value


async def test_odd_bodies_from_the_engine_are_errors_of_the_engine(tmp_path: Path) -> None:
    bodies: list[Any] = [
        b"[" * 100_000,
        b"",
        5,
        {},
        {"choices": {}},
        {"choices": [{"message": "x"}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"content": "x"}, "token_ids": "x"}]},
        {"choices": [{"message": {"content": "x"}, "finish_reason": []}]},
        {"choices": [{"message": {"content": "x", "tool_calls": 5}}]},
        {"choices": [{"message": {"content": "x"}}], "prompt_token_ids": ["x"]},
    ]
    async with OddUpstream() as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        for upstream.body in bodies:
            reply = await proxy.chat(stream=False)
            assert reply.status == 502, (upstream.body, reply.raw)
            assert "upstream" in reply.body["error"]["message"]


BAD_REQUESTS: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"null", 400),
    (b"[]", 400),
    (b"\xff\xfe\xff", 400),
    (b"[" * 200_000, 400),
    (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400),
    (b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"seed":' + b"9" * 3000 + b"}", 400),
    (b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"seed":' + b"9" * 9000 + b"}", 400),
    (b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"temperature":1e999}', 400),
    (b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"temperature":NaN}', 400),
    (b'{"model":"scripted","messages":[{"role":"user","content":"\\ud800"}]}', 400),
    (b'{"model":"unknown","messages":[{"role":"user","content":"x"}]}', 404),
    (b'{"model":5,"messages":[{"role":"user","content":"x"}]}', 400),
    (b'{"model":"scripted","messages":"x"}', 400),
    (b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"n":1000000}', 400),
    (b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"stream":"yes"}', 400),
    (b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"chat_template":"x"}', 400),
    (b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"kv_transfer_params":{}}', 400),
    (b"x" * 20_000, 413),
]


async def test_bad_requests_get_an_error_in_openais_shape_and_reach_no_engine(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, running_proxy(upstream.url, tmp_path) as roomy:
        for body, status in BAD_REQUESTS[:-1]:
            for kind in ("application/json", "text/plain", "multipart/form-data"):
                reply = await roomy.post("/v1/chat/completions", data=body, headers={"Content-Type": kind})
                assert_error(reply, status, body)
        gzipped = await roomy.post("/v1/chat/completions", data=b"\x1f\x8b\x08x", headers={"Content-Encoding": "gzip"})
        assert_error(gzipped, 400, b"gzip")
        assert [item for item in upstream.chats if not item.is_probe] == []
        for method, path, status in (
            ("GET", "/v1/chat/completions", 405),
            ("OPTIONS", "/v1/chat/completions", 405),
            ("DELETE", "/v1/models", 405),
            ("POST", "/v1/completions", 404),
            ("POST", "/v1/responses", 404),
            ("POST", "/v1/load_lora_adapter", 404),
            ("POST", "/inference/v1/generate", 404),
            ("GET", "/v1/chat/completions/", 404),
            ("GET", "/v1/%2e%2e/metrics", 404),
            ("GET", "/%ff%fe", 404),
        ):
            reply = await roomy.request(method, path)
            assert_error(reply, status, path.encode())
            assert ("allow" in reply.headers) == (status == 405)
        head = await roomy.request("HEAD", "/healthz")
        assert (head.status, head.raw) == (200, b"")
    async with (
        ScriptedUpstream() as upstream,
        running_proxy(upstream.url, tmp_path, server={"max_body_bytes": 10_000}) as small,
    ):
        body, status = BAD_REQUESTS[-1]
        assert_error(await small.post("/v1/chat/completions", data=body), status, body)

        async def pieces() -> Any:
            for _ in range(10_000):
                yield b"x" * 100

        chunked = await small.post("/v1/chat/completions", data=pieces())
        assert_error(chunked, 413, b"chunked")


def assert_error(reply: Reply, status: int, sent: bytes) -> None:
    assert reply.status == status, (sent[:80], reply.raw)
    assert reply.headers["content-type"] == "application/json"
    error = reply.body["error"]
    assert error["message"], sent[:80]
    assert {"message", "type", "param", "code"} <= set(error)


async def test_pipelined_requests_are_answered_in_turn(tmp_path: Path) -> None:
    body = dump({"model": "scripted", "messages": [{"role": "user", "content": "x"}], "stream": True})
    one = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with ScriptedUpstream() as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(one * 3 + last)
            received = b""
            with anyio.fail_after(PATIENCE_S):
                async for part in stream:
                    received += part
    assert received.count(b"data: [DONE]") == 3
    assert received.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
async def test_broken_http_breaks_nobody_elses_connection(tmp_path: Path, raw: bytes) -> None:
    async with ScriptedUpstream() as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(raw)
            with anyio.move_on_after(1):
                await stream.receive()
        assert (await proxy.chat()).is_complete

"""The scripted upstream does what the real engine was seen to do, and what its script says."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from tests.patience import PATIENCE_S
from tests.upstream import (
    Fault,
    Framing,
    Generation,
    Script,
    ScriptedUpstream,
    ToolCall,
    Trace,
    on_chat,
    on_resume,
    refused_url,
    running,
)
from tests.upstream.tokens import decode, encode, marker_id, tokenizer

MESSAGES = [{"role": "user", "content": "How many loaves?"}]
TEXTS = [
    "Okay, let me think.",
    "今天天气很好。🍞 x",
    "a\u2028b\r\n",
    "<think>\nx</think>",
    "<|im_end|>",
    "é́",
    "\x00\x7f",
]


@asynccontextmanager
async def client(script: Script) -> AsyncIterator[tuple[ScriptedUpstream, aiohttp.ClientSession]]:
    async with ScriptedUpstream(script) as upstream, aiohttp.ClientSession(upstream.url) as session:
        yield upstream, session


async def post(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    async with session.post(path, json={"model": "scripted", **body}) as response:
        return response.status, await response.read()


def events(data: bytes) -> list[dict[str, Any]]:
    lines = [line for line in data.split(b"\n") if line.startswith(b"data: ")]
    assert lines[-1] == b"data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def field(chunks: list[dict[str, Any]], name: str) -> str:
    return "".join(chunk["choices"][0]["delta"].get(name) or "" for chunk in chunks if chunk["choices"])


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_round_trips_any_text_and_agrees_with_its_tokenizer_json(text: str) -> None:
    assert decode(encode(text)) == text
    assert tokenizer().decode(encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize("tokens_per_frame", [1, 3, 1000])
@pytest.mark.parametrize("style", ["reasoning", "reasoning_content", "inline"])
async def test_a_stream_replays_the_trace_in_the_field_the_style_names(style: Any, tokens_per_frame: int) -> None:
    trace = Trace("\nHmm, 今天\u2028 wait.\n", "\n\nTwelve 🍞.")
    async with client(Script(trace, style=style, tokens_per_frame=tokens_per_frame)) as (_, session):
        _, data = await post(session, "/v1/chat/completions", {"messages": MESSAGES, "stream": True})
    chunks = events(data)
    if style == "inline":
        assert field(chunks, "content") == trace.raw(is_open=False)
    else:
        assert (field(chunks, style), field(chunks, "content")) == (trace.reasoning, trace.answer)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"


async def test_asking_for_ids_adds_only_ids_and_the_frames_of_tokens_without_text() -> None:
    async with client(Script()) as (_, session):
        _, plain = await post(session, "/v1/chat/completions", {"messages": MESSAGES, "stream": True})
        _, asked = await post(
            session, "/v1/chat/completions", {"messages": MESSAGES, "stream": True, "return_token_ids": True}
        )
    ids = [id for chunk in events(asked) for id in chunk["choices"][0].get("token_ids") or []]
    assert decode(ids) == Script().trace.raw(is_open=False) + "<|im_end|>"  # type: ignore[union-attr]
    assert events(asked)[0]["prompt_token_ids"] == encode(
        "<|im_start|>user\nHow many loaves?<|im_end|>\n<|im_start|>assistant\n"
    )
    stripped = []
    for chunk in events(asked):
        head = chunk["choices"][0]
        if head["delta"] or head["finish_reason"]:
            head |= {"token_ids": None} if "token_ids" in head else {}
            chunk |= {"prompt_token_ids": None} if "prompt_token_ids" in chunk else {}
            stripped.append({**chunk, "id": "", "created": 0})
    assert stripped == [{**chunk, "id": "", "created": 0} for chunk in events(plain)]


async def test_a_resume_goes_on_from_exactly_the_ids_it_was_sent() -> None:
    def continuation(generation: Generation) -> str:
        assert generation.is_thinking
        return " more</think>done"

    prefix = encode("<|im_start|>assistant\n<think>\nWait.")
    async with client(Script(continuation=continuation, has_generate=True)) as (upstream, session):
        _, data = await post(
            session, "/v1/completions", {"prompt": prefix, "stream": True, "return_token_ids": True, "max_tokens": 99}
        )
        sampling = {"max_tokens": 2}
        _, cut = await post(
            session, "/inference/v1/generate", {"token_ids": prefix, "stream": True, "sampling_params": sampling}
        )
    assert [item.prompt_ids for item in upstream.resumes] == [prefix, prefix]
    chunks = events(data)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == " more</think>done"
    assert chunks[0]["choices"][0]["prompt_token_ids"] == prefix
    ids = [id for chunk in chunks for id in chunk["choices"][0]["token_ids"]]
    assert ids == [*encode(" more</think>done"), marker_id("<|im_end|>")]
    assert [chunk["choices"][0]["finish_reason"] for chunk in events(cut)] == [None, "length"]


async def test_choices_usage_logprobs_and_tool_calls_have_the_recorded_shapes() -> None:
    trace = Trace("\nUse a tool.\n", "\n\n", (ToolCall("get_weather", '{"city": "Rome"}'),))
    body = {"messages": MESSAGES, "stream": True, "n": 2, "logprobs": True, "top_logprobs": 2}
    body["stream_options"] = {"include_usage": True}
    async with client(Script(trace)) as (_, session):
        _, data = await post(session, "/v1/chat/completions", body)
        _, whole = await post(session, "/v1/chat/completions", {"messages": MESSAGES, "n": 2})
    *chunks, usage = events(data)
    assert [chunk["choices"][0]["index"] for chunk in chunks[:4]] == [0, 1, 0, 1]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2 * (len(encode(trace.raw(is_open=False))) + 1)
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert [call["function"] for call in calls][:2] == [{"name": "get_weather"}, {"arguments": '{"city": "Rome"}'}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert len(chunks[3]["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    body_choices = json.loads(whole)["choices"]
    assert [choice["message"]["tool_calls"][0]["function"]["name"] for choice in body_choices] == ["get_weather"] * 2
    assert body_choices[1]["message"]["reasoning"] == trace.reasoning


async def test_a_client_that_leaves_stops_the_token_counter_and_is_recorded() -> None:
    script = Script(Trace("\n" + "word " * 500, "x"), delay_ms=2)
    async with client(script) as (upstream, session):
        async with session.post(
            "/v1/chat/completions", json={"model": "scripted", "messages": MESSAGES, "stream": True}
        ) as response:
            await response.content.readuntil(b"reasoning")
            response.close()
        await upstream.aborted(1)
        before = upstream.num_tokens
        await anyio.sleep(0.05)
        assert upstream.num_tokens == before == upstream.aborts[0].num_sent < 500
        async with session.get("/metrics") as response:
            assert f'model_name="scripted"}} {before}.0' in await response.text()


@pytest.mark.parametrize("action", ["fin", "rst", "half_frame", "half_event", "stall"])
async def test_broken_streams_break_after_the_frames_that_were_asked_for(action: Any) -> None:
    fault = Fault(action, after_frames=4, stall_s=60)
    async with client(Script(fault=on_chat(fault))) as (upstream, session):
        data = b""
        with suppress(aiohttp.ClientError, ConnectionError), anyio.move_on_after(PATIENCE_S) as waiting:
            async with session.post(
                "/v1/chat/completions", json={"model": "scripted", "messages": MESSAGES, "stream": True}
            ) as response:
                async for part in response.content.iter_any():
                    data += part
                    if action == "stall" and data.count(b"\n\n") == 4:
                        waiting.deadline = anyio.current_time() + 0.2  # nothing more comes
        if action != "rst":  # a reset may discard what was not read yet
            assert data.count(b"\n\n") == 4
        assert b"[DONE]" not in data
        await upstream.aborted(1)


@pytest.mark.parametrize(
    ("action", "marker"), [("garbage", b"\xff\xfe{"), ("not_json", b"no JSON"), ("error_frame", b"err")]
)
async def test_bad_events_come_between_good_ones(action: Any, marker: bytes) -> None:
    async with client(Script(fault=on_chat(Fault(action)))) as (_, session):
        _, data = await post(session, "/v1/chat/completions", {"messages": MESSAGES, "stream": True})
    assert marker in data
    assert data.endswith(b"data: [DONE]\n\n")


async def test_an_event_of_many_megabytes_and_a_wrong_content_type_can_be_sent() -> None:
    async with client(Script(fault=on_chat(Fault("huge", content_type="text/html")))) as (upstream, session):
        body = {"model": "scripted", "messages": MESSAGES, "stream": True}
        async with session.post("/v1/chat/completions", json=body) as response:
            assert response.content_type == "text/html"
            assert len(await response.read()) > 32 << 20
        assert upstream.aborts == []


@pytest.mark.parametrize("status", [429, 500, 404])
async def test_only_first_legs_or_only_resumes_can_be_made_to_fail(status: int) -> None:
    async with client(Script(fault=on_resume(Fault(status=status)))) as (upstream, session):
        assert (await post(session, "/v1/chat/completions", {"messages": MESSAGES}))[0] == 200
        assert (await post(session, "/v1/completions", {"prompt": [1, 2]}))[0] == status
        assert (await post(session, "/v1/completions", {"prompt": [1, 2], "max_tokens": 1}))[0] == 200  # a probe
        upstream.script = Script(fault=on_chat(Fault(status=status)))
        assert (await post(session, "/v1/chat/completions", {"messages": MESSAGES}))[0] == status
        assert (await post(session, "/v1/completions", {"prompt": [1, 2]}))[0] == 200


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_continued_chat_is_rendered_as_the_template_would(keeps: bool) -> None:
    partial = [*MESSAGES, {"role": "assistant", "content": "<think>\nOkay"}]
    body = {"messages": partial, "continue_final_message": True, "add_generation_prompt": False, "stream": True}
    async with client(Script(continues_chat=keeps)) as (upstream, session):
        await post(session, "/v1/chat/completions", body)
    (generation,) = upstream.resumes
    assert generation.is_thinking
    assert generation.prompt_text.endswith("<think>\nOkay")
    assert ("</think>" in generation.prompt_text) is not keeps


async def test_a_template_may_open_the_think_block_and_an_engine_may_know_no_ids() -> None:
    script = Script(Trace("a\n", "b"), opens_think=True, token_ids="unsupported", style="inline")
    async with client(script) as (upstream, session):
        body = {"messages": MESSAGES, "stream": True, "return_token_ids": True}
        _, data = await post(session, "/v1/chat/completions", body)
    assert b"token_ids" not in data
    assert field(events(data), "content") == "a\n</think>b"
    assert upstream.chats[0].prompt_text.endswith("<think>\n")


async def test_error_statuses_and_missing_ends_are_sent_as_scripted() -> None:
    def fault(generation: Generation) -> Fault:
        return Fault(status=429) if generation.choice or generation.body.get("seed") == 1 else Fault("no_done")

    async with client(Script(fault=fault)) as (_, session):
        status, _ = await post(session, "/v1/chat/completions", {"messages": MESSAGES, "seed": 1})
        assert status == 429
        _, data = await post(session, "/v1/chat/completions", {"messages": MESSAGES, "stream": True})
        assert b"[DONE]" not in data
        assert b'"finish_reason":"stop"' in data


@pytest.mark.parametrize(
    "framing",
    [Framing("\r\n"), Framing("\r"), Framing(comments=True), Framing(multi_line=True), Framing(write_bytes=1)],
)
async def test_every_framing_carries_the_same_events(framing: Framing) -> None:
    async with client(Script(framing=framing)) as (_, session):
        _, data = await post(session, "/v1/chat/completions", {"messages": MESSAGES, "stream": True})
    text = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    payloads = [
        b"\n".join(line[6:] for line in event.split(b"\n") if line.startswith(b"data: "))
        for event in text.split(b"\n\n")[:-1]
    ]
    assert payloads.pop() == b"[DONE]"
    assert field([json.loads(payload) for payload in payloads], "content") == "\n\nFine."


async def test_bad_requests_are_answered_as_the_engine_does() -> None:
    async with client(Script(max_model_len=10)) as (_, session):
        status, data = await post(session, "/v1/chat/completions", {"messages": MESSAGES, "model": "nope"})
        assert (status, json.loads(data)["error"]["type"]) == (404, "NotFoundError")
        status, data = await post(session, "/v1/chat/completions", {"messages": MESSAGES})
        assert (status, json.loads(data)["error"]["param"]) == (400, "input_tokens")
        assert (await post(session, "/v1/completions", {"prompt": [10**6]}))[0] == 400
        assert (await post(session, "/inference/v1/generate", {}))[0] == 404
        async with session.post("/v1/chat/completions", data=b"{") as response:
            assert response.status == 400


async def test_tokenize_and_detokenize_are_inverse() -> None:
    async with client(Script()) as (_, session):
        _, data = await post(session, "/tokenize", {"prompt": "Okay, 今天"})
        ids = json.loads(data)["tokens"]
        _, data = await post(session, "/detokenize", {"tokens": ids})
    assert json.loads(data)["prompt"] == "Okay, 今天"


async def test_nothing_listens_at_the_refused_url() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(refused_url())


def test_it_also_runs_in_a_thread_and_as_a_process(tmp_path: Path) -> None:
    with running() as upstream:
        assert upstream.url.startswith("http://127.0.0.1:")
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"reasoning": "a", "answer": "b"}))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.upstream", "--trace", str(trace)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)

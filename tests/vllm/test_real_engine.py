"""The live path on a real vLLM server with a small random model: cues are forced, everything else is real."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from benchmarks.bench_engine import is_cue, wrong_prefixes
from proxy.log import LogReader
from tests.e2e.harness import Reply, TableScorer, running_proxy
from tests.vllm.fixture import VllmServer
from tests.vllm.spy import is_as_expected, spying
from tests.vllm.still import LONG, tokens_when_still

pytestmark = [pytest.mark.vllm, pytest.mark.anyio, pytest.mark.timeout(600)]

QUESTION = "How many loaves does the baker need?"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["n", "ok"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    },
}
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "max_tokens": 60},
    "sampled": {"temperature": 1, "seed": 3, "max_tokens": 200},
    "usage": {"temperature": 0, "max_tokens": 40, "stream_options": {"include_usage": True}},
    "logprobs": {"temperature": 1, "seed": 4, "max_tokens": 80, "logprobs": True, "top_logprobs": 2},
    "n=3": {"temperature": 1, "seed": 5, "n": 3, "max_tokens": 30, "stream_options": {"include_usage": True}},
    "json schema": {
        "temperature": 1,
        "seed": 3,
        "max_tokens": 300,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    },
    "tools": {"temperature": 1, "seed": 3, "max_tokens": 300, "tool_choice": "required", "tools": [TOOL]},
    "no thinking": {"temperature": 0, "max_tokens": 40, "chat_template_kwargs": {"enable_thinking": False}},
}


async def post(url: str, body: dict[str, Any]) -> Reply:
    async with aiohttp.ClientSession() as session, session.post(url + "/v1/chat/completions", json=body) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, headers, await response.read())


def comparable(payload: bytes) -> Any:
    """A payload without what differs between any two requests: ids, times, and how warm the cache was."""
    payload = re.sub(rb'"id":"chatcmpl-tool-[0-9a-f]+"', b'"id":"tool"', payload)
    payload = re.sub(rb'"id":"chatcmpl-[0-9a-f]+"', b'"id":"x"', payload)
    payload = re.sub(rb'"created":\d+', b'"created":0', payload)
    return re.sub(rb'"cached_tokens":\d+,"created_cache_tokens":\d+', b'"cached_tokens":0', payload)


def merged(reply: Reply) -> Iterator[tuple[int, list[Any]]]:
    """Frames by choice, as if each held one kind of text and as much of it as follows: grouping is the engine's timing.

    Last of a choice are all its log-probabilities: a frame with two kinds of text does not say whose they are.
    """
    by_choice: dict[int, list[Any]] = {}
    told: dict[int, list[Any]] = {}
    for event in reply.events:
        if event == b"[DONE]":
            by_choice.setdefault(-1, []).append("[DONE]")
            continue
        chunk = json.loads(comparable(event))
        index = chunk["choices"][0]["index"] if chunk["choices"] else -1
        frames = by_choice.setdefault(index, [])
        if chunk["choices"] and chunk["choices"][0]["logprobs"] is not None:
            told.setdefault(index, []).extend(chunk["choices"][0]["logprobs"].pop("content"))
        for part in _kinds_apart(chunk):
            if not (frames and _joins(frames[-1], part)):
                frames.append(part)
    yield from sorted((index, [*frames, told.get(index, [])]) for index, frames in by_choice.items())


def _kinds_apart(chunk: Any) -> Iterator[Any]:
    """An engine that is ahead of its reader sends the reasoning's end and the answer's beginning in one frame."""
    delta = chunk["choices"][0]["delta"] if chunk["choices"] else {}
    if set(delta) != {"reasoning", "content"}:
        yield chunk
        return
    ends = chunk["choices"][0]["finish_reason"]
    for name in ("reasoning", "content"):
        part = copy.deepcopy(chunk)
        part["choices"][0] |= {"delta": {name: delta[name]}, "finish_reason": ends if name == "content" else None}
        yield part


def _joins(last: Any, chunk: Any) -> bool:
    """Move `chunk`'s text to `last` where both carry text of one kind; whether nothing is left of `chunk`."""
    if not chunk["choices"] or not last["choices"]:
        return False
    before, after = last["choices"][0], chunk["choices"][0]
    names = list(after["delta"])
    if len(names) != 1 or list(before["delta"]) != names or before["finish_reason"]:
        return False
    if not isinstance(after["delta"][names[0]], str):
        return False
    before["delta"][names[0]] += after["delta"].pop(names[0])
    return after["finish_reason"] is None


def test_frames_are_the_same_however_the_engine_groups_them() -> None:
    """What a busy engine was seen to do: two kinds of text in one frame."""

    def reply(*deltas: tuple[dict[str, str], list[int]]) -> Reply:
        choices = [
            {"index": 0, "delta": delta, "logprobs": {"content": told}, "finish_reason": None} for delta, told in deltas
        ]
        lines = [json.dumps({"choices": [choice]}) for choice in choices]
        return Reply(200, {}, "".join(f"data: {line}\n\n" for line in lines).encode())

    apart = reply(({"reasoning": "a"}, [1]), ({"reasoning": "b"}, [2]), ({"content": "c"}, [3]))
    at_once = reply(({"reasoning": "ab", "content": "c"}, [1, 2, 3]))
    other = reply(({"reasoning": "a"}, [1]), ({"content": "bc"}, [2, 3]))
    assert dict(merged(apart)) == dict(merged(at_once))
    assert dict(merged(apart)) != dict(merged(other))


@pytest.mark.parametrize("name", CASES)
async def test_without_a_cue_a_client_gets_what_the_engine_sends(
    name: str, vllm_server: VllmServer, tmp_path: Path
) -> None:
    body = {"model": vllm_server.model, "messages": [{"role": "user", "content": QUESTION}]} | CASES[name]
    async with running_proxy(vllm_server.url, tmp_path, TableScorer(lambda text: 0.0)) as proxy:
        direct = await post(vllm_server.url, body | {"stream": True})
        through = await post(proxy.url, body | {"stream": True})
        body.pop("stream_options", None)
        whole, whole_through = await post(vllm_server.url, body), await post(proxy.url, body)
    assert direct.status == through.status == 200
    assert dict(merged(through)) == dict(merged(direct))
    assert comparable(whole_through.raw) == comparable(whole.raw)


async def test_cuts_at_random_places_leak_nothing_and_resume_exactly(vllm_server: VllmServer, tmp_path: Path) -> None:
    share, interventions = 0.15, 0
    scorer = TableScorer(lambda text: 0.9 if is_cue(text, share) else 0.1)
    with spying() as spy:
        async with running_proxy(vllm_server.url, tmp_path, scorer, policy={"max_interventions": 3}) as proxy:
            for number in range(24):
                reply = await proxy.chat(
                    QUESTION,
                    model=vllm_server.model,
                    temperature=number % 2,
                    seed=number,
                    max_tokens=100,
                    steer={"show_interventions": True},
                )
                legs = spy.take()
                told = [event["trigger_id"] for event in reply.told if event["event"] == "intervention"]
                interventions += len(told)
                assert reply.is_complete
                assert wrong_prefixes(legs) == 0
                assert is_as_expected(reply.reasoning, legs, lambda text: is_cue(text, share), told)
    assert interventions >= 10, "the scripted scorer must have cut often enough to prove anything"


async def test_structured_output_survives_an_intervention(vllm_server: VllmServer, tmp_path: Path) -> None:
    scorer = TableScorer(lambda text: 0.9 if len(scorer.seen) == 1 else 0.1)
    async with running_proxy(vllm_server.url, tmp_path, scorer) as proxy:
        for seed in range(6):
            scorer.seen.clear()
            body = CASES["json schema"] | {"seed": seed}
            reply = await proxy.chat(QUESTION, model=vllm_server.model, **body)
            if reply.finish_reasons == ["stop"]:
                answer = json.loads(reply.content)
                assert set(answer) == {"n", "ok"}
                return
    pytest.fail("no completion ended by itself within the token limit")


async def test_a_client_that_leaves_stops_the_engine(vllm_server: VllmServer, tmp_path: Path) -> None:
    body = {
        "model": vllm_server.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "max_tokens": LONG,
        "ignore_eos": True,
    }
    before = tokens_when_still(vllm_server)
    async with running_proxy(vllm_server.url, tmp_path, TableScorer(lambda text: 0.0)) as proxy:
        async with aiohttp.ClientSession() as session:
            response = await session.post(proxy.url + "/v1/chat/completions", json=body)
            for _ in range(20):
                await response.content.readline()
            response.close()
        stopped = await anyio.to_thread.run_sync(tokens_when_still, vllm_server)
        assert 5 < stopped - before < LONG


async def test_a_halt_stops_the_engine_and_its_record_is_complete(vllm_server: VllmServer, tmp_path: Path) -> None:
    scorer = TableScorer(lambda text: 0.9)
    before = tokens_when_still(vllm_server)
    async with running_proxy(vllm_server.url, tmp_path, scorer, policy={"max_interventions": 0}) as proxy:
        reply = await proxy.chat(QUESTION, model=vllm_server.model, max_tokens=LONG, ignore_eos=True, seed=1)
        stopped = await anyio.to_thread.run_sync(tokens_when_still, vllm_server)
        assert stopped - before < LONG
    assert reply.finish_reasons == ["content_filter"]
    async with LogReader.open(f"sqlite:///{proxy.database}") as log:
        (record,) = [record async for record in log.export()]
    assert (record.outcome, record.refusal_cause, record.kept.text.strip()) == ("refused", "max_interventions", "")

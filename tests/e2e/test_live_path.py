"""Cut, splice, resume and record, seen from the client's socket, the upstream's books and the log's rows."""

import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from steer.policy import DEFAULT_REFUSAL
from steer.triggers import DEFAULT_TRIGGERS
from tests.e2e.harness import CUE, Reply, RunningProxy, TableScorer, running_proxy
from tests.upstream import Generation, Script, ScriptedUpstream, ToolCall, Trace
from tests.upstream.tokens import decode, encode

pytestmark = pytest.mark.anyio

BEFORE = "\nOkay, let me think about this."
REJECTED = f" I will just explain how, {CUE}, step by step."
AFTER = " SECRET detail follows here.\n"
ANSWER = "\n\nSECRET answer."
HALTED = Script(Trace(BEFORE + REJECTED + AFTER, ANSWER))
SAFE = " I will answer with care.\n"
TRIGGERS = [trigger.text for trigger in DEFAULT_TRIGGERS]
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


def trigger_in(text: str) -> str:
    return next(trigger for trigger in TRIGGERS if trigger in text)


def assert_clean(reply: Reply) -> None:
    """Nothing of the cue, or of what came after it, in any byte."""
    for word in (CUE, "SECRET", "just explain"):
        assert word.encode() not in reply.raw, reply.raw


def prefix_of(generation: Generation, kept: str, trigger: str, *, prompt: str) -> list[int]:
    return encode(prompt) + encode("<think>") + encode(kept) + encode(trigger)


PROMPT = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("tokens_per_frame", [1, 4])
@pytest.mark.parametrize("style", ["reasoning", "reasoning_content", "inline"])
@pytest.mark.parametrize("opens_think", [False, True])
async def test_a_cue_is_cut_out_and_the_stream_goes_on_from_the_exact_ids(
    tmp_path: Path, style: Any, opens_think: bool, tokens_per_frame: int, stream: bool
) -> None:
    script = Script(HALTED.trace, style=style, opens_think=opens_think, tokens_per_frame=tokens_per_frame)
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(stream=stream)
        [resume] = upstream.resumes
        [record] = await proxy.records()
    assert_clean(reply)
    trigger = trigger_in(resume.prompt_text)
    prompt = PROMPT + ("<think>\n" if opens_think else "")
    thought = encode(prompt) + ([] if opens_think else encode("<think>")) + encode(BEFORE) + encode(f" {trigger}")
    assert resume.prompt_ids == thought
    reasoning, content = texts(reply, stream)
    whole = f"{BEFORE} {trigger}{SAFE}"
    if style == "inline":
        opening = "" if opens_think else "<think>"
        assert (reasoning, content) == ("", f"{opening}{whole}</think>\n\nHere is a safe answer.")
    else:
        assert (reasoning, content) == (whole, "\n\nHere is a safe answer.")
    assert record.kept.text == BEFORE
    assert record.rejected.text.startswith(REJECTED)
    assert record.prompt_token_ids is not None
    assert record.kept.token_ids is not None
    assert record.trigger.token_ids == encode(f" {trigger}")
    assert record.prompt_token_ids + record.kept.token_ids + record.trigger.token_ids == resume.prompt_ids
    assert record.rejected.token_ids is not None
    assert decode(record.kept.token_ids + record.rejected.token_ids).replace("<think>", "").startswith(BEFORE)
    assert (record.outcome, record.mode, record.channel) == ("completed", "hold", "reasoning")
    assert record.completion is not None
    assert record.completion.continuation.text == SAFE
    assert record.completion.answer == "\n\nHere is a safe answer."
    assert record.completion.finish_reason == "stop"
    assert record.completion.discarded_tokens == len(record.rejected.token_ids)
    assert record.messages == [{"role": "user", "content": "Hello"}]


def texts(reply: Reply, stream: bool) -> tuple[str, str]:
    """Reasoning and content of a reply, streamed or not; checks that it ended as it should."""
    assert reply.status == 200, reply.raw
    if stream:
        assert reply.is_complete
        assert len(reply.finish_reasons) == 1
        return reply.reasoning, reply.content
    message = reply.body["choices"][0]["message"]
    assert reply.body["choices"][0]["finish_reason"] is not None
    return message.get("reasoning") or message.get("reasoning_content") or "", message["content"] or ""


@pytest.mark.parametrize("style", ["reasoning", "inline"])
@pytest.mark.parametrize("tokens_per_frame", [1, 7, 400])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_cue_in_the_first_sentence_leaves_the_trigger_as_the_first_thought(
    tmp_path: Path, tokens_per_frame: int, style: Any, stream: bool
) -> None:
    script = Script(Trace(f"{CUE} first. SECRET then.\n", ANSWER), tokens_per_frame=tokens_per_frame, style=style)
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(stream=stream)
        [resume] = upstream.resumes
    assert_clean(reply)
    reasoning, content = texts(reply, stream)
    trigger = trigger_in(resume.prompt_text)
    assert resume.prompt_ids == encode(PROMPT) + encode("<think>") + encode(trigger)
    if style == "inline":
        assert content.startswith(f"<think>{trigger}")
    else:
        assert reasoning == trigger + SAFE


WORDS = ["the", "idea", "今天天气很好", "🍞🧑‍🍳", "naïve", "x=1", "wait", "é́", "reason", "दुनिया"]


@pytest.mark.parametrize("seed", range(12))
async def test_cues_at_random_places_in_many_scripts_leave_no_trace_and_an_exact_prefix(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)

    def sentence() -> str:
        words = " ".join(rng.choices(WORDS, k=rng.randint(2, 9)))
        return words + rng.choice([". ", "。", "!\n", "? ", ".\n\n"])

    before = "".join(sentence() for _ in range(rng.randint(0, 6)))
    after = "".join(f"SECRET {sentence()}" for _ in range(rng.randint(0, 4)))
    trace = Trace(f"{before}but {CUE} {sentence()}{after}", ANSWER)
    sizes = [rng.randint(1, 9) for _ in range(50)]
    script = Script(
        trace,
        tokens_per_frame=lambda number: sizes[number % 50],
        style=rng.choice(["reasoning", "reasoning_content", "inline"]),
    )
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(stream=rng.random() < 0.8, return_token_ids=rng.random() < 0.3, logprobs=seed % 3 == 0)
        [resume] = upstream.resumes
        [record] = await proxy.records()
    assert reply.status == 200
    assert_clean(reply)
    assert trigger_in(resume.prompt_text) in reply.raw.decode()
    assert record.kept.token_ids is not None
    assert record.trigger.token_ids is not None
    kept = record.kept.token_ids
    whole = encode(PROMPT) + encode("<think>" + before + f"but {CUE}")
    assert resume.prompt_ids == encode(PROMPT) + kept + record.trigger.token_ids
    assert whole[: len(encode(PROMPT)) + len(kept)] == encode(PROMPT) + kept, "kept ids are the engine's own"
    assert decode(kept) == "<think>" + record.kept.text
    assert before.startswith(record.kept.text)
    assert len(before) - len(record.kept.text) < 12, "no more than the cut's own token goes with it"


async def test_after_its_budget_a_stream_ends_in_a_clean_refusal(tmp_path: Path) -> None:
    script = Script(HALTED.trace, continuation=lambda _: f" Hmm. {CUE} again. SECRET more.\n</think>SECRET")
    async with (
        ScriptedUpstream(script) as upstream,
        running_proxy(upstream.url, tmp_path, policy={"max_interventions": 2}) as proxy,
    ):
        for style in ("reasoning", "inline"):
            upstream.script = Script(HALTED.trace, continuation=script.continuation, style=style)
            upstream.generations.clear()
            reply = await proxy.chat(steer={"show_interventions": True}, **USAGE)
            assert_clean(reply)
            assert reply.is_complete
            assert reply.finish_reasons == ["content_filter"]
            assert len(upstream.resumes) == 2
            assert [told["event"] for told in reply.told] == ["intervention", "intervention", "refusal"]
            assert reply.told[-1]["cause"] == "max_interventions"
            if style == "inline":
                assert reply.content.endswith(f" Hmm.</think>{DEFAULT_REFUSAL}")
            else:
                assert reply.content == DEFAULT_REFUSAL
            assert reply.chunks[-1]["usage"]["completion_tokens"] > 30
        records = await proxy.records()
    assert [record.outcome for record in records[:3]] == ["halted_again", "halted_again", "refused"]
    assert [record.attempt for record in records[:3]] == [0, 1, 2]
    assert records[2].refusal_cause == "max_interventions"
    assert records[2].trigger_id is None
    assert len({record.trigger_id for record in records[:2]}) == 2
    # each kept prefix goes on from the one before
    assert records[1].kept.text == records[0].kept.text + records[0].trigger.text + " Hmm."
    assert records[0].completion is not None
    assert records[0].completion.continuation.text == " Hmm."


async def test_a_refusal_that_is_not_streamed_is_an_ordinary_body(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(HALTED) as upstream,
        running_proxy(upstream.url, tmp_path, policy={"max_interventions": 0}) as proxy,
    ):
        reply = await proxy.chat(stream=False, return_token_ids=True, logprobs=True)
        assert_clean(reply)
        [choice] = reply.body["choices"]
        assert choice["finish_reason"] == "content_filter"
        assert choice["message"]["content"] == DEFAULT_REFUSAL
        assert choice["message"]["reasoning"] == BEFORE
        assert decode(choice["token_ids"]) == f"<think>{BEFORE}"
        assert "SECRET" not in decode(choice["token_ids"])


async def test_tap_shows_at_once_and_cuts_when_the_verdict_says_so(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(HALTED) as upstream,
        running_proxy(upstream.url, tmp_path, policy={"mode": "tap"}) as proxy,
    ):
        reply = await proxy.chat()
        [record] = await proxy.records()
        [resume] = upstream.resumes
    assert reply.is_complete
    assert reply.finish_reasons == ["stop"]
    assert reply.content.endswith("Here is a safe answer.")
    assert (record.mode, record.outcome) == ("tap", "completed")
    assert resume.prompt_ids == encode(PROMPT) + encode(f"<think>{BEFORE}") + (record.trigger.token_ids or [])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("delay_s", [0.0, 0.2])
async def test_monitor_changes_nothing_and_records_what_it_saw(tmp_path: Path, stream: bool, delay_s: float) -> None:
    async with (
        ScriptedUpstream(HALTED) as upstream,
        running_proxy(upstream.url, tmp_path, TableScorer(delay_s=delay_s), policy={"mode": "monitor"}) as proxy,
    ):
        reply = await proxy.chat(stream=stream, logprobs=True)
        direct = await chat_direct(upstream, stream=stream, logprobs=True)
        [record] = await proxy.settled(1)
    assert neutral(reply.raw) == neutral(direct.raw)
    assert (record.outcome, record.mode, record.trigger_id) == ("observed", "monitor", None)
    assert record.kept.text == BEFORE
    assert record.rejected.text.startswith(REJECTED)


async def chat_direct(upstream: ScriptedUpstream, **body: Any) -> Reply:
    """The same request without the proxy."""
    return await RunningProxy(upstream.url, Path(), TableScorer()).chat(**body)


def neutral(raw: bytes) -> bytes:
    """Without ids and times, which differ between any two requests."""
    return re.sub(rb'"created":\d+', b"", re.sub(rb"(chat)?cmpl-[0-9a-f]+", b"", raw))


ORDINARY = Trace("\nOkay, let me think.\nThe user asks about bread. Fine.\n", "\n\nTwelve 🍞 loaves. END of it.")
VARIANTS: list[dict[str, Any]] = [
    {},
    {"logprobs": True, "top_logprobs": 2},
    {"return_token_ids": True},
    USAGE,
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"max_tokens": 7},
    {"seed": 3, "temperature": 0.5},
]


@pytest.mark.parametrize("mode", ["hold", "tap", "monitor"])
@pytest.mark.parametrize("style", ["reasoning", "reasoning_content", "inline"])
async def test_without_a_cue_every_byte_equals_a_direct_connection(tmp_path: Path, mode: str, style: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    called = Trace(ORDINARY.reasoning, "\n\nCalling.", (ToolCall("f", '{"a": "b \\"token_ids\\":[1] c"}'),))
    async with ScriptedUpstream() as upstream:
        for token_ids in ("null", "absent"):
            upstream.script = Script(ORDINARY, style=style, token_ids=token_ids)
            async with running_proxy(upstream.url, tmp_path, policy={"mode": mode}) as proxy:
                for variant, stream in itertools.product(VARIANTS, (True, False)):
                    size = 5 if stream and variant else 1
                    upstream.script = replace(upstream.script, tokens_per_frame=size)
                    body = {name: value for name, value in variant.items() if stream or name != "stream_options"}
                    reply = await proxy.chat(stream=stream, **body)
                    direct = await chat_direct(upstream, stream=stream, **body)
                    assert neutral(reply.raw) == neutral(direct.raw), (token_ids, size, variant, stream)
                upstream.script = replace(upstream.script, trace=called)
                for stream in (True, False) if style != "inline" else ():
                    reply = await proxy.chat(stream=stream, tools=[tool])
                    direct = await chat_direct(upstream, stream=stream, tools=[tool])
                    assert neutral(reply.raw) == neutral(direct.raw)
                assert await proxy.records() == []


async def test_three_choices_equal_a_direct_connection_but_for_the_order_of_frames(tmp_path: Path) -> None:
    async with ScriptedUpstream(Script(ORDINARY)) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(n=3, seed=5, **USAGE)
        direct = await chat_direct(upstream, n=3, seed=5, **USAGE)
        assert [item.seed for item in upstream.chats[:3]] == [5, 6, 7]
    ids = {chunk["id"] for chunk in reply.chunks}
    assert len(ids) == 1
    for index in range(3):
        of_choice = [[e for e in neutral(r.raw).split(b"\n\n") if b'"index":%d' % index in e] for r in (reply, direct)]
        assert of_choice[0] == of_choice[1]
    assert reply.chunks[-1]["usage"] == direct.chunks[-1]["usage"]


@pytest.mark.parametrize("stream", [True, False])
async def test_one_of_three_choices_is_halted_and_its_neighbours_are_not(tmp_path: Path, stream: bool) -> None:
    def trace(generation: Generation) -> Trace:
        return HALTED.trace if generation.seed == 8 else ORDINARY  # type: ignore[return-value]

    async with ScriptedUpstream(Script(trace)) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(stream=stream, n=3, seed=7)
        [record] = await proxy.records()
        [resume] = upstream.resumes
    assert_clean(reply)
    assert record.choice == 1
    assert resume.seed not in (7, 8, 9)
    if stream:
        assert reply.is_complete
        assert reply.finish_reasons == ["stop"] * 3
        contents = [reply.text("content", choice=index) for index in range(3)]
    else:
        assert [choice["index"] for choice in reply.body["choices"]] == [0, 1, 2]
        contents = [choice["message"]["content"] for choice in reply.body["choices"]]
    assert contents == [ORDINARY.answer, "\n\nHere is a safe answer.", ORDINARY.answer]


@pytest.mark.parametrize("stream", [True, False])
async def test_scope_all_watches_the_answer_too(tmp_path: Path, stream: bool) -> None:
    trace = Trace("\nFine.\n", f"\n\nSure, gladly. {CUE} comes here. SECRET more.")
    async with ScriptedUpstream(Script(trace)) as upstream:
        async with running_proxy(upstream.url, tmp_path, policy={"scope": "all"}) as proxy:
            reply = await proxy.chat(stream=stream)
            [record] = await proxy.records()
            [resume] = upstream.resumes
        assert_clean(reply)
        reasoning, content = texts(reply, stream)
        assert reasoning == trace.reasoning
        assert content == f"\n\nSure, gladly.{record.trigger.text}\n\nHere is a safe answer."
        assert record.channel == "answer"
        assert resume.prompt_text.endswith(f"</think>\n\nSure, gladly.{record.trigger.text}")


@pytest.mark.parametrize("reasoning", [None, "", "\n\n"])
@pytest.mark.parametrize("stream", [True, False])
async def test_without_thinking_the_answer_is_watched(tmp_path: Path, reasoning: str | None, stream: bool) -> None:
    script = Script(Trace(reasoning, f"Of course. {CUE} comes here. SECRET more."))
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(stream=stream)
        [record] = await proxy.records()
    assert_clean(reply)
    assert texts(reply, stream)[1].startswith("Of course. ")
    assert record.channel == "answer"


@pytest.mark.parametrize("style", ["reasoning", "reasoning_content", "inline"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hides_reasoning_sees_none_but_is_guarded_all_the_same(
    tmp_path: Path, stream: bool, style: Any
) -> None:
    async with (
        ScriptedUpstream(Script(ORDINARY, style=style)) as upstream,
        running_proxy(upstream.url, tmp_path) as proxy,
    ):
        ordinary = await proxy.chat(stream=stream, include_reasoning=False)
        assert texts(ordinary, stream) == ("", ORDINARY.answer)
        assert b"bread" not in ordinary.raw
        upstream.script = Script(HALTED.trace, style=style)
        halted = await proxy.chat(stream=stream, include_reasoning=False)
        assert_clean(halted)
        assert texts(halted, stream) == ("", "\n\nHere is a safe answer.")
        upstream.script = Script(Trace("\nFine.\n", f"Sure. {CUE} here. SECRET."), style=style)
        answered = await proxy.chat(stream=stream, include_reasoning=False)
        assert_clean(answered)
        assert [record.channel for record in await proxy.records()] == ["reasoning", "answer"]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_without_token_ids_is_resumed_by_continuing_the_chat(tmp_path: Path, stream: bool) -> None:
    script = Script(HALTED.trace, token_ids="unsupported", continues_chat=True, tokens_per_frame=3)
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(stream=stream)
        [resume] = upstream.resumes
        [record] = await proxy.records()
    assert_clean(reply)
    reasoning, content = texts(reply, stream)
    assert reasoning == f"{BEFORE}{record.trigger.text}{SAFE}"
    assert content == "\n\nHere is a safe answer."
    assert resume.path == "chat"
    assert resume.prompt_text.endswith(f"<think>\n{BEFORE}{record.trigger.text}")
    assert record.prompt_token_ids is None
    assert record.kept.token_ids is None
    assert record.outcome == "completed"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_cannot_resume_gives_a_refusal_and_the_record_says_why(
    tmp_path: Path, stream: bool
) -> None:
    script = Script(HALTED.trace, token_ids="unsupported")
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(stream=stream)
        [record] = await proxy.records()
    assert_clean(reply)
    assert texts(reply, stream) == (BEFORE, DEFAULT_REFUSAL)
    assert upstream.resumes == []
    assert (record.outcome, record.refusal_cause) == ("refused", "cannot_resume")


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("stream", [True, False])
async def test_tool_calls_of_a_resumed_leg_are_calls_and_never_text(tmp_path: Path, stream: bool) -> None:
    call = ToolCall("look", '{"at": "今天"}')
    script = Script(HALTED.trace, continuation=lambda _: Trace(SAFE, "\n\nLooking.", (call,)), tokens_per_frame=3)
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(stream=stream, tools=[TOOL])
    assert_clean(reply)
    assert b"<tool_call>" not in reply.raw
    assert texts(reply, stream)[1].strip() == "Looking."
    if stream:
        deltas = [choice["delta"] for chunk in reply.chunks for choice in chunk["choices"]]
        [calls] = [delta["tool_calls"] for delta in deltas if delta.get("tool_calls")]
        assert reply.finish_reasons == ["tool_calls"]
    else:
        calls = reply.body["choices"][0]["message"]["tool_calls"]
        assert reply.body["choices"][0]["finish_reason"] == "tool_calls"
    assert calls[0]["function"] == {"name": "look", "arguments": '{"at": "今天"}'}


@pytest.mark.parametrize("markup", ["<tool_call>\nno json", "[TOOL_CALLS] [{}]", "<function=f>x</function>"])
async def test_tool_markup_that_cannot_be_parsed_is_withheld(tmp_path: Path, markup: str) -> None:
    script = Script(HALTED.trace, continuation=lambda _: f"{SAFE}</think>Fine. {markup}")
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(tools=[TOOL])
    assert reply.content == "Fine. "
    assert reply.finish_reasons == ["content_filter"]


FORM: dict[str, Any] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
}


@pytest.mark.parametrize("stream", [True, False])
async def test_structured_output_resumes_on_generate_with_its_grammar_or_is_refused(
    tmp_path: Path, stream: bool
) -> None:
    script = Script(HALTED.trace, continuation=lambda _: f"{SAFE}</think>" + '{"a":1}', has_generate=True)
    async with ScriptedUpstream(script) as upstream:
        async with running_proxy(upstream.url, tmp_path) as proxy:
            reply = await proxy.chat(stream=stream, **FORM)
            [resume] = upstream.resumes
        assert_clean(reply)
        assert texts(reply, stream)[1] == '{"a":1}'
        assert resume.path == "generate"
        assert resume.body["sampling_params"]["structured_outputs"] == {"json": {"type": "object"}}
        upstream.script = HALTED
        async with running_proxy(upstream.url, tmp_path) as proxy:
            refused = await proxy.chat(stream=stream, **FORM)
        assert_clean(refused)
        assert texts(refused, stream)[1] == DEFAULT_REFUSAL


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("included", [True, False])
@pytest.mark.parametrize("tokens_per_frame", [1, 6, 500])
async def test_stop_strings_end_the_answer_and_never_the_reasoning(
    tmp_path: Path, stream: bool, included: bool, tokens_per_frame: int
) -> None:
    trace = Trace("\nTHE END is not yet. More.\n", "\n\nA list: THE END and SECRET more.")
    body: dict[str, Any] = {"stop": ["THE END"], "include_stop_str_in_output": included}
    expected = "\n\nA list: " + ("THE END" if included else "")
    async with (
        ScriptedUpstream(Script(trace, tokens_per_frame=tokens_per_frame)) as upstream,
        running_proxy(upstream.url, tmp_path) as proxy,
    ):
        reply = await proxy.chat(stream=stream, **body)
        assert texts(reply, stream) == (trace.reasoning, expected)
        assert_clean(reply)
        last = reply.chunks[-1]["choices"][0] if stream else reply.body["choices"][0]
        assert (last["finish_reason"], last["stop_reason"]) == ("stop", "THE END")
        upstream.script = Script(HALTED.trace, continuation=lambda _: trace, tokens_per_frame=tokens_per_frame)
        halted = await proxy.chat(stream=stream, **body)
        reasoning, content = texts(halted, stream)
        assert reasoning.endswith(str(trace.reasoning))
        assert content == expected


async def test_stop_strings_hold_in_every_leg_of_a_watched_answer(tmp_path: Path) -> None:
    trace = Trace("\nFine.\n", f"Sure, gladly. {CUE} here. SECRET.")
    script = Script(trace, continuation=lambda _: " A list: THE END and SECRET more.")
    async with (
        ScriptedUpstream(script) as upstream,
        running_proxy(upstream.url, tmp_path, policy={"scope": "all"}) as proxy,
    ):
        reply = await proxy.chat(stop="THE END")
        assert_clean(reply)
        assert reply.content.startswith("Sure, gladly.")
        assert reply.content.endswith(" A list: ")


async def test_a_cue_before_a_stop_string_halts_and_one_after_it_does_not(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream() as upstream,
        running_proxy(upstream.url, tmp_path, policy={"scope": "all"}) as proxy,
    ):
        for size in (1, 300):
            upstream.script = Script(Trace("\nFine.\n", f"Sure. {CUE} THE END SECRET."), tokens_per_frame=size)
            reply = await proxy.chat(stop="THE END")
            assert_clean(reply)
            assert reply.content.endswith("Here is a safe answer.")
            upstream.script = Script(Trace("\nFine.\n", f"Sure THE END {CUE} SECRET."), tokens_per_frame=size)
            reply = await proxy.chat(stop="THE END")
            assert_clean(reply)
            assert (reply.content, reply.finish_reasons) == ("Sure ", ["stop"])


async def test_the_token_budget_is_the_clients_over_all_legs(tmp_path: Path) -> None:
    async with ScriptedUpstream(HALTED) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(max_completion_tokens=250)
        [resume] = upstream.resumes
        [record] = await proxy.records()
        shown = len(record.kept.token_ids or []) + len(record.trigger.token_ids or [])
        assert resume.body["max_tokens"] == 250 - shown
        assert reply.is_complete
        upstream.generations.clear()
        spent = await proxy.chat(max_tokens=38, seed=1)
        assert upstream.resumes == []
        assert spent.is_complete
        assert spent.finish_reasons == ["length"]
        assert_clean(spent)
        assert trigger_in(spent.reasoning)
        assert (await proxy.records())[1].outcome == "completed"


async def test_every_leg_has_a_seed_of_its_own_or_none(tmp_path: Path) -> None:
    async with ScriptedUpstream(HALTED) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        first = await proxy.chat(seed=11, temperature=0.7, top_p=0.9)
        second = await proxy.chat(seed=11, temperature=0.7, top_p=0.9)
        await proxy.chat()
        seeds = [item.seed for item in upstream.resumes]
        sampling = upstream.resumes[0].body
    assert seeds[0] == seeds[1]
    assert seeds[0] not in (None, 11)
    assert seeds[2] is None
    assert (sampling["temperature"], sampling["top_p"]) == (0.7, 0.9)
    assert trigger_in(first.reasoning) == trigger_in(second.reasoning)


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_counts_every_generated_token_once(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream(HALTED) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        before = upstream.num_tokens
        reply = await proxy.chat(stream=stream, **(USAGE if stream else {}))
        [record] = await proxy.records()
        probes = sum(1 for item in upstream.generations if item.is_probe)
        generated = upstream.num_tokens - before - probes
    usage = (reply.chunks[-1] if stream else reply.body)["usage"]
    assert record.completion is not None
    kept, trigger, rejected = record.kept.token_ids, record.trigger.token_ids, record.rejected.token_ids
    continuation = record.completion.continuation.token_ids
    assert None not in (kept, trigger, rejected, continuation)
    counted = len((kept or []) + (trigger or []) + (rejected or []) + (continuation or []))
    assert usage["completion_tokens"] == counted
    assert usage["prompt_tokens"] == len(encode(PROMPT))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert counted <= generated + len(trigger or []), "the engine may have sent more than was read"


@pytest.mark.parametrize("stream", [True, False])
async def test_logprobs_of_a_rebuilt_frame_end_with_its_text(tmp_path: Path, stream: bool) -> None:
    script = Script(HALTED.trace, tokens_per_frame=9)
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(stream=stream, logprobs=True, top_logprobs=1)
    assert_clean(reply)
    parts = reply.chunks if stream else [reply.body]
    choices = [choice for part in parts for choice in part["choices"]]
    entries = [e["token"] for choice in choices if choice.get("logprobs") for e in choice["logprobs"]["content"]]
    said = "".join(entries).replace("<think>", "")
    assert said.startswith(BEFORE)
    assert "Here is a safe answer." in said


async def test_interventions_are_told_only_to_clients_that_ask(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(HALTED) as upstream,
        running_proxy(upstream.url, tmp_path) as proxy,
    ):
        quiet, told = await proxy.chat(), await proxy.chat(steer={"show_interventions": True})
        quiet_body = await proxy.chat(stream=False)
        told_body = await proxy.chat(stream=False, steer={"show_interventions": True})
        records = await proxy.records()
    assert b"steer" not in quiet.raw
    assert b'"steer"' not in quiet_body.raw
    assert not any(name.lower().startswith("x-steer") for name in quiet_body.headers)
    [event] = told.told
    assert event["id"] == records[1].id
    assert event["trigger_id"] == records[1].trigger_id
    assert "rejected" not in event
    assert told_body.body["steer"][0]["id"] == records[3].id
    assert told_body.headers["x-steer-interventions"] == "1"
    for reply in (quiet, told):
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-request-id"].startswith("req-")
    assert records[0].request_id == quiet.headers["x-request-id"]


async def test_the_row_is_on_disk_before_the_trigger_and_complete_before_the_end_is_seen(tmp_path: Path) -> None:
    script = Script(HALTED.trace, continuation=lambda _: f" Hmm. {CUE} again. SECRET.\n", delay_ms=0.2)

    def continuation(generation: Generation) -> Trace | str:
        return f" Hmm. {CUE} again. SECRET.\n" if len(upstream.resumes) < 2 else Trace(SAFE, "\n\nSafe.")

    script = Script(HALTED.trace, continuation=continuation)
    async with (
        ScriptedUpstream(script) as upstream,
        running_proxy(upstream.url, tmp_path) as proxy,
        proxy.stream(steer={"show_interventions": True}) as live,
    ):
        await live.until('"attempt":0')
        assert proxy.outcomes() in (["open"], ["halted_again!", "open"])
        await live.until('"attempt":1')
        assert proxy.outcomes()[0] == "halted_again!"
        assert proxy.outcomes()[1] in ("open", "completed!")
        await live.until('"finish_reason":"stop"')
        assert proxy.outcomes() == ["halted_again!", "completed!"]
        assert await live.event() == b"[DONE]"


@pytest.mark.parametrize("hidden", [True, False])
async def test_a_client_that_leaves_after_the_halt_leaves_a_complete_record(tmp_path: Path, hidden: bool) -> None:
    long = Trace(" I wait." * 2000, "\n\nSafe.")
    script = Script(HALTED.trace, continuation=lambda _: long, delay_ms=1)
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        async with proxy.stream() as live:
            await live.until(" about" if hidden else " wait")
            if hidden:
                await upstream.aborted(1)
            live.close()
        [record] = await proxy.settled(1)
        await upstream.aborted(2 if upstream.resumes else 1)
        assert record.outcome == "client_left"
        assert record.rejected.text.startswith(REJECTED)
        assert record.completion is not None


async def test_a_client_that_leaves_while_the_trigger_is_looked_up_loses_no_record(tmp_path: Path) -> None:
    async with SlowTokenize(HALTED) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        await proxy.chat(model="scripted", max_tokens=3)  # the probes are over
        upstream.is_slow = True
        async with proxy.stream() as live:
            await live.until(" about")
            await upstream.aborted(1)
            await upstream.asked.wait()
            live.close()
        [record] = await proxy.settled(1)
    assert record.outcome == "client_left"
    assert record.kept.text == BEFORE
    assert record.rejected.text.startswith(REJECTED)


class SlowTokenize(ScriptedUpstream):
    """Never answers /tokenize while `is_slow`."""

    is_slow = False

    async def _tokenize(self, connection: Any, body: dict[str, Any]) -> None:
        if self.is_slow:
            self.asked.set()
            await anyio.sleep_forever()
        await super()._tokenize(connection, body)

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.asked = anyio.Event()


async def test_a_hidden_reasoning_is_durable_too_before_the_answer_is_shown(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(HALTED) as upstream,
        running_proxy(upstream.url, tmp_path) as proxy,
        proxy.stream(include_reasoning=False) as live,
    ):
        await live.until('" is"')
        assert proxy.outcomes()[0] in ("open", "completed!")


async def test_models_are_the_engines_own_list(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        listed = await proxy.get("/v1/models")
        assert [model["id"] for model in listed.body["data"]] == ["scripted"]
        async with aiohttp.ClientSession() as session, session.get(upstream.url + "/v1/models") as response:
            assert listed.raw == await response.read()
        assert json.loads((await proxy.get("/healthz")).raw) == {"status": "ok"}
        assert (await proxy.get("/readyz")).body == {"status": "ready", "models": ["scripted"]}


async def test_nobodys_key_is_used_for_somebody_else(tmp_path: Path) -> None:
    async with ScriptedUpstream(HALTED) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        for key in ("Bearer a", "Bearer b"):
            first = len(upstream.requests)
            await proxy.post("/v1/chat/completions", json=body, headers={"Authorization": key, "Cookie": "c=1"})
            for request in upstream.requests[first:]:
                assert request.headers["authorization"] == key
                assert "cookie" not in request.headers

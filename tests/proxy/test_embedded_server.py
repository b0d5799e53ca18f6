"""The embedded server over HTTP: shapes of the engine's frames, exact resumes, aborts, errors."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.patience import PATIENCE_S
from tests.proxy.embedded_server import BENIGN, HARMFUL, EmbeddedServer, ids_of, running, text_of

GREEDY = {"temperature": 0, "max_tokens": 160}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with running() as up:
        yield up


def test_a_chat_stream_carries_prompt_ids_first_and_then_every_token_id(server: EmbeddedServer) -> None:
    body = {"messages": BENIGN, "return_token_ids": True, "stream_options": {"include_usage": True}, **GREEDY}
    events = server.stream("/v1/chat/completions", body)
    _, prompt = server.post("/tokenize", {"messages": BENIGN})
    assert events[0]["prompt_token_ids"] == prompt["tokens"]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    reasoning, content = text_of(events, "reasoning"), text_of(events, "content")
    _, whole = server.post("/detokenize", {"tokens": ids_of(events)})
    assert whole["prompt"] == f"{reasoning}</think>{content}<|im_end|>"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == len(ids_of(events))


def test_without_token_ids_the_frames_keep_null_ids_and_no_empty_frame_is_sent(server: EmbeddedServer) -> None:
    events = server.stream("/v1/chat/completions", {"messages": BENIGN, **GREEDY})
    assert events[0]["prompt_token_ids"] is None
    assert all(event["choices"][0]["token_ids"] is None for event in events[1:])
    assert all(event["choices"][0]["delta"] for event in events[1:-1])


def test_the_whole_answer_says_what_the_stream_says(server: EmbeddedServer) -> None:
    events = server.stream("/v1/chat/completions", {"messages": BENIGN, **GREEDY})
    _, body = server.post("/v1/chat/completions", {"messages": BENIGN, **GREEDY})
    message = body["choices"][0]["message"]
    assert message["reasoning"] == text_of(events, "reasoning")
    assert message["content"] == text_of(events, "content")
    assert body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("kept", [0, 1, 7, 40])
def test_a_raw_resume_from_ids_goes_on_exactly(server: EmbeddedServer, kept: int) -> None:
    events = server.stream("/v1/chat/completions", {"messages": HARMFUL, "return_token_ids": True, **GREEDY})
    prompt, ids = events[0]["prompt_token_ids"], ids_of(events)
    body = {"prompt": prompt + ids[:kept], "return_token_ids": True, "skip_special_tokens": False, **GREEDY}
    resumed = server.stream("/v1/completions", body | {"max_tokens": len(ids) - kept})
    assert ids_of(resumed) == ids[kept:]
    assert resumed[0]["choices"][0]["prompt_token_ids"] == prompt + ids[:kept]


def test_eight_streams_at_once_say_what_each_says_alone(server: EmbeddedServer) -> None:
    prompts = [
        [{"role": "user", "content": f"What is {a} plus {b}?"}] for a, b in ((3, 4), (20, 31), (45, 54), (9, 9))
    ] + [BENIGN, HARMFUL, [{"role": "user", "content": "Hi!"}], [{"role": "user", "content": "Who are you?"}]]
    bodies = [{"messages": prompt, "return_token_ids": True, **GREEDY} for prompt in prompts]
    alone = [ids_of(server.stream("/v1/chat/completions", body)) for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: ids_of(server.stream("/v1/chat/completions", body)), bodies))
    assert together == alone


def test_more_streams_than_slots_wait_their_turn_and_all_finish() -> None:
    with running(slots=2) as up, ThreadPoolExecutor(7) as pool:
        body = {"messages": BENIGN, **GREEDY}
        ends = pool.map(lambda _: up.stream("/v1/chat/completions", body)[-1]["choices"][0]["finish_reason"], range(7))
        assert list(ends) == ["stop"] * 7


def test_a_seed_fixes_the_sample_and_n_gives_different_choices(server: EmbeddedServer) -> None:
    body = {"messages": HARMFUL, "seed": 11, "n": 3, "return_token_ids": True, "max_tokens": 40}
    first, second = (server.stream("/v1/chat/completions", body) for _ in range(2))
    assert [ids_of(first, i) for i in range(3)] == [ids_of(second, i) for i in range(3)]
    assert len({tuple(ids_of(first, i)) for i in range(3)}) > 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("is_streamed", [True, False])
def test_closing_the_connection_stops_the_generation(server: EmbeddedServer, path: str, is_streamed: bool) -> None:
    _, prompt = server.post("/tokenize", {"messages": BENIGN})
    body = {"messages": BENIGN} if "chat" in path else {"prompt": prompt["tokens"]}
    body |= {"max_tokens": 1900, "ignore_eos": True, "stream": is_streamed}
    before = server.counter("vllm:generation_tokens_total")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    if is_streamed:
        connection.getresponse().read(200)
    while server.counter("vllm:generation_tokens_total") < before + 5:
        time.sleep(0.01)
    connection.close()
    _wait_until_still(server)
    assert server.counter("vllm:generation_tokens_total") < before + 1900
    assert server.counter("vllm:num_requests_running") == 0


def _wait_until_still(server: EmbeddedServer) -> None:
    last, still = -1.0, 0
    while still < 5:
        now = server.counter("vllm:generation_tokens_total")
        still = still + 1 if now == last else 0
        last = now
        time.sleep(0.02)


def test_thinking_can_be_switched_off(server: EmbeddedServer) -> None:
    body = {"messages": BENIGN, "chat_template_kwargs": {"enable_thinking": False}, **GREEDY}
    events = server.stream("/v1/chat/completions", body)
    assert text_of(events, "reasoning") == ""
    assert "wooden floor" in text_of(events, "content")


def test_hidden_reasoning_is_left_out(server: EmbeddedServer) -> None:
    events = server.stream("/v1/chat/completions", {"messages": BENIGN, "include_reasoning": False, **GREEDY})
    assert text_of(events, "reasoning") == ""
    assert "wooden floor" in text_of(events, "content")


def test_a_stop_string_ends_the_text_before_it_and_is_never_shown_in_part(server: EmbeddedServer) -> None:
    _, whole = server.post("/v1/chat/completions", {"messages": BENIGN, **GREEDY})
    stop = whole["choices"][0]["message"]["reasoning"].split(" ")[5]
    events = server.stream("/v1/chat/completions", {"messages": BENIGN, "stop": [stop], **GREEDY})
    last = events[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)
    assert text_of(events, "reasoning") == whole["choices"][0]["message"]["reasoning"].split(stop)[0]


def test_a_tool_call_comes_as_tool_calls(server: EmbeddedServer) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "get_weather", "description": "The weather in a city.", "parameters": schema}
    body = {
        "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
        "tools": [{"type": "function", "function": function}],
        **GREEDY,
    }
    _, whole = server.post("/v1/chat/completions", body)
    call = whole["choices"][0]["message"]["tool_calls"][0]
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Oslo"})
    events = server.stream("/v1/chat/completions", body)
    assert text_of(events, "content") == ""
    streamed = [c for e in events for c in e["choices"][0]["delta"].get("tool_calls", [])]
    assert streamed[0]["function"] == call["function"]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_max_tokens_ends_with_length(server: EmbeddedServer) -> None:
    # Greedy: a draw may end the turn sooner.
    body = {"prompt": "How", "max_tokens": 3, "return_token_ids": True, "temperature": 0}
    events = server.stream("/v1/completions", body)
    assert len(ids_of(events)) == 3
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_any_unicode_survives_tokenize_and_detokenize(server: EmbeddedServer) -> None:
    text = "naïve 日本語 🙂‍↔️ \u0000 ½ ٣ </think> <|im_start|>\r\n\t"
    _, encoded = server.post("/tokenize", {"prompt": text})
    assert encoded["count"] == len(encoded["tokens"])
    _, decoded = server.post("/detokenize", {"tokens": encoded["tokens"]})
    assert decoded["prompt"] == text


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/chat/completions", b"{", 400, "no valid JSON"),
        ("/v1/chat/completions", {"messages": []}, 400, "body.messages"),
        ("/v1/chat/completions", {"messages": [{"content": "x"}]}, 400, "malformed"),
        ("/v1/chat/completions", {"messages": BENIGN, "model": "other"}, 404, "`other` does not exist"),
        ("/v1/chat/completions", {"messages": BENIGN, "temperature": -1}, 400, "body.temperature"),
        ("/v1/chat/completions", {"messages": BENIGN, "logprobs": True}, 400, "`logprobs`"),
        ("/v1/completions", {"prompt": [1] * 2048}, 400, "maximum context length is 2048"),
        ("/v1/completions", {"prompt": [99999]}, 400, "token ids must be below"),
        ("/v1/completions", {"prompt": []}, 400, "the prompt is empty"),
        ("/tokenize", {}, 400, "either `prompt` or `messages`"),
    ],
)
def test_a_bad_request_is_refused_by_name(
    server: EmbeddedServer, path: str, body: object, status: int, said: str
) -> None:
    got, answer = server.post(path, body)
    assert got == status
    assert said in answer["error"]["message"]
    assert answer["error"]["code"] == status


def test_models_and_health(server: EmbeddedServer) -> None:
    card = json.loads(server.get("/v1/models"))["data"][0]
    assert (card["id"], card["max_model_len"]) == ("steer-organism", 2048)
    assert server.get("/health") == ""


def test_the_server_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, proxy.embedded.app; print([m for m in ('torch', 'transformers', 'onnx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

"""What the proxy takes for granted about the real engine, asked of the real engine: what the scripted one imitates."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.patience import PATIENCE_S
from tests.vllm.fixture import VllmServer
from tests.vllm.still import LONG, tokens_when_still

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]

MESSAGES = [{"role": "user", "content": "How many loaves does the baker need?"}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def post(server: VllmServer, path: str, **body: Any) -> bytes:
    data = json.dumps({"model": server.model, **body}).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return bytes(answer.read())


def chat(server: VllmServer, **body: Any) -> bytes:
    return post(server, "/v1/chat/completions", messages=MESSAGES, **{"max_tokens": 120, "temperature": 0, **body})


def payloads(data: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines]


def ids_of(server: VllmServer, text: str) -> list[int]:
    return list(json.loads(post(server, "/tokenize", prompt=text))["tokens"])


def prompt_ids(server: VllmServer) -> list[int]:
    return list(json.loads(post(server, "/tokenize", messages=MESSAGES))["tokens"])


def text_of(chunks: list[dict[str, Any]], name: str) -> str:
    return "".join(chunk["choices"][0]["delta"].get(name) or "" for chunk in chunks)


def without_and_with_ids(server: VllmServer) -> list[list[dict[str, Any]]]:
    sampled: dict[str, Any] = {"temperature": 1, "seed": 3, "stream": True}
    return [payloads(chat(server, **sampled, return_token_ids=asks)) for asks in (False, True)]


def test_asking_for_ids_fills_keys_that_are_null_otherwise(vllm_server: VllmServer) -> None:
    plain, asked = without_and_with_ids(vllm_server)
    for _ in range(10):
        # A server that is short of time puts several tokens into a frame, and may split their text otherwise.
        if all(text_of(plain, name) == text_of(asked, name) for name in ("reasoning", "content")):
            break
        plain, asked = without_and_with_ids(vllm_server)
    assert list(plain[0]) == list(asked[0])
    assert plain[0]["prompt_token_ids"] is None
    assert asked[0]["prompt_token_ids"] == prompt_ids(vllm_server)
    assert all(chunk["choices"][0]["token_ids"] is None for chunk in plain[1:])
    for name in ("reasoning", "content"):
        assert text_of(plain, name) == text_of(asked, name)
    silent = [chunk for chunk in asked if not chunk["choices"][0]["delta"] and not chunk["choices"][0]["finish_reason"]]
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in silent)
    assert not [c for c in plain if not c["choices"][0]["delta"] and not c["choices"][0]["finish_reason"]]


def test_raw_completions_go_on_from_ids_with_markers_in_the_text(vllm_server: VllmServer) -> None:
    prefix = prompt_ids(vllm_server) + ids_of(vllm_server, "<think>\nOkay, so the user")
    data = post(
        vllm_server,
        "/v1/completions",
        prompt=prefix,
        max_tokens=400,
        temperature=1,
        seed=3,
        stream=True,
        return_token_ids=True,
        skip_special_tokens=False,
    )
    chunks = [chunk["choices"][0] for chunk in payloads(data)]
    assert chunks[0]["prompt_token_ids"] == prefix
    (end_id,) = ids_of(vllm_server, "</think>")
    text, ids = "".join(chunk["text"] for chunk in chunks), [id for chunk in chunks for id in chunk["token_ids"]]
    assert text.count("</think>") == ids.count(end_id)


@pytest.mark.parametrize("is_open", [True, False])
def test_generate_gates_json_by_the_state_of_the_prefix(vllm_server: VllmServer, is_open: bool) -> None:
    prefix = "<think>\nOkay, so." + ("" if is_open else "\n</think>\n\n")
    data = post(
        vllm_server,
        "/inference/v1/generate",
        token_ids=prompt_ids(vllm_server) + ids_of(vllm_server, prefix),
        output_mode="text",
        sampling_params={
            "structured_outputs": {"json": SCHEMA},
            "max_tokens": 600,
            "temperature": 1,
            "seed": 3,
            "skip_special_tokens": False,
        },
    )
    choice = json.loads(data)["choices"][0]
    assert choice["finish_reason"] == "stop"
    thought, marker, answer = choice["text"].rpartition("</think>")
    assert bool(marker) is is_open
    assert bool(thought) is is_open
    assert set(json.loads(answer)) == {"n"}


def test_choice_i_draws_as_a_single_request_with_seed_plus_i(vllm_server: VllmServer) -> None:
    sampled: dict[str, Any] = {"temperature": 1, "max_tokens": 12}
    whole = json.loads(chat(vllm_server, **sampled, n=3, seed=5))["choices"]
    single = [json.loads(chat(vllm_server, **sampled, seed=5 + index))["choices"][0] for index in range(3)]
    assert [choice["message"] for choice in whole] == [choice["message"] for choice in single]


def test_closing_the_connection_stops_the_token_counter(vllm_server: VllmServer) -> None:
    body = {"model": vllm_server.model, "messages": MESSAGES, "max_tokens": LONG, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        f"{vllm_server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    before = tokens_when_still(vllm_server)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        for _ in range(40):
            answer.readline()
    assert 10 < tokens_when_still(vllm_server) - before < LONG


@pytest.mark.parametrize(
    ("change", "status"),
    [({"model": "nope"}, 404), ({"temperature": "hot"}, 400), ({"messages": []}, 400), ({"max_tokens": 50_000}, 400)],
)
def test_errors_are_openai_shaped_with_a_number_as_code(
    vllm_server: VllmServer, change: dict[str, Any], status: int
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(vllm_server, "/v1/chat/completions", **{"messages": MESSAGES, **change})
    with caught.value as error:
        assert (error.code, json.load(error)["error"]["code"]) == (status, status)

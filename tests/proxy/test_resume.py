"""Bodies of first and resumed legs, and how far a token budget goes."""

from typing import Any

import pytest

from proxy.capabilities import Capabilities
from proxy.guard import ChatRequest, Limits, check_chat_request
from proxy.resume import continued_body, first_body, leg_seed, raw_body, remaining_tokens


def request(**body: Any) -> ChatRequest:
    return check_chat_request({"model": "m", "messages": [{"role": "user", "content": "x"}]} | body, Limits())


def capabilities(resume_by: Any = "token_ids", max_model_len: int | None = None) -> Capabilities:
    nothing: Any = None
    return Capabilities("m", resume_by, True, False, max_model_len, frozenset(), frozenset(), nothing)


def test_the_first_leg_is_the_clients_request_less_what_the_proxy_does_itself() -> None:
    asked = request(
        stop=["x"], n=3, seed=5, temperature=0.5, stream=True, tools=[{"type": "function", "function": {"name": "f"}}]
    )
    body = first_body(asked, capabilities(), 2, stream=True)
    assert (body["n"], body["seed"], body["temperature"], body["return_token_ids"]) == (1, 7, 0.5, True)
    assert "stop" not in body
    assert "stream_options" not in body
    assert body["tools"]
    assert "n" not in first_body(request(), capabilities(), 0, stream=False)
    assert "return_token_ids" not in first_body(request(), capabilities("chat"), 0, stream=False)


def test_usage_options_are_asked_of_the_engine_only_in_streams() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = request(stream=True, stream_options=options)
    assert first_body(asked, capabilities(), 0, stream=True)["stream_options"] == options


def test_seeds_of_legs_and_choices_never_meet_and_fit_the_engine() -> None:
    asked = request(seed=2**63 - 1)
    seeds = {leg_seed(asked, choice, attempt) for choice in range(16) for attempt in range(33)}
    assert len(seeds) == 16 * 33
    assert all(seed is not None and 0 <= seed < 2**63 for seed in seeds)
    assert leg_seed(request(), 0, 1) is None


@pytest.mark.parametrize(
    ("max_tokens", "context", "prefix", "shown", "left"),
    [
        (100, None, 50, 30, 70),
        (100, 120, 90, 30, 30),
        (100, None, 50, 100, 0),
        (100, None, 50, 130, 0),
        (None, 120, 120, 30, 0),
        (None, None, 50, 30, 8192),
    ],
)
def test_a_budget_shrinks_by_what_was_shown(
    max_tokens: int | None, context: int | None, prefix: int, shown: int, left: int
) -> None:
    asked = request(**({} if max_tokens is None else {"max_tokens": max_tokens}))
    assert remaining_tokens(asked, capabilities(max_model_len=context), prefix, shown) == left


def test_a_raw_leg_keeps_the_clients_sampling_and_nothing_of_its_form() -> None:
    asked = request(temperature=0.0, top_k=5, cache_salt="s", response_format={"type": "json_object"}, logprobs=True)
    body = raw_body(asked, [1, 2], 9, 4)
    assert (body["prompt"], body["max_tokens"], body["seed"], body["temperature"]) == ([1, 2], 9, 4, 0.0)
    assert (body["top_k"], body["cache_salt"], body["logprobs"]) == (5, "s", 1)
    assert "response_format" not in body
    assert "messages" not in body
    assert body["skip_special_tokens"] is False


def test_a_continued_leg_ends_in_the_unfinished_message() -> None:
    body = continued_body(request(stop="x", n=2, max_tokens=50), "<think>\nHm", 9, None)
    assert body["messages"][-1] == {"role": "assistant", "content": "<think>\nHm"}
    assert (body["continue_final_message"], body["add_generation_prompt"], body["max_tokens"]) == (True, False, 9)
    assert not {"stop", "n", "seed"} & set(body)


def test_thinking_is_open_by_the_last_marker() -> None:
    made = Capabilities("m", "token_ids", True, False, None, frozenset([8]), frozenset([9]), None)  # type: ignore[arg-type]
    assert made.is_thinking_open([1, 8, 2]) is True
    assert made.is_thinking_open([8, 2, 9, 3]) is False
    assert made.is_thinking_open([1, 2]) is None

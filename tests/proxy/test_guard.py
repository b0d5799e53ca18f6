"""The guard: one case per field, and no body whatever gets anything but a request or a RequestError out of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import RequestError, UpstreamStatusError
from proxy.guard import ChatRequest, Limits, check_chat_request
from proxy.guard_fields import RULES

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
LIMITS = Limits(max_n=4)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def check(limits: Limits = LIMITS, /, **fields: Any) -> ChatRequest:
    return check_chat_request({"model": "m", "messages": HELLO, **fields}, limits)


def refusal(limits: Limits = LIMITS, /, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check(limits, **fields)
    return caught.value


GOOD: dict[str, list[Any]] = {
    "model": ["m", "org/name@7"],
    "temperature": [0, 1.5],
    "top_p": [0.9, 1],
    "min_p": [0.1],
    "top_k": [-1, 0, 40],
    "presence_penalty": [-2, 0.5],
    "frequency_penalty": [2.0],
    "repetition_penalty": [1.1],
    "seed": [0, -5, 2**63 - 1],
    "n": [1, 4],
    "max_tokens": [1, 4096],
    "max_completion_tokens": [7],
    "min_tokens": [0, 5],
    "ignore_eos": [True, False],
    "stop_token_ids": [[], [1, 2]],
    "include_stop_str_in_output": [True],
    "logit_bias": [{}, {"50256": -100, "7": 1.5}],
    "allowed_token_ids": [[1], list(range(1024))],
    "bad_words": [[], ["no"]],
    "logprobs": [True, False],
    "top_logprobs": [0],
    "cache_salt": ["s"],
    "user": ["u"],
    "response_format": [{"type": "text"}, {"type": "json_object"}, SCHEMA],
    "structured_outputs": [{"regex": "[a-z]+"}, {"json": {}}, {"json": "{}"}, {"choice": ["a", "b"]}, {"grammar": "x"}],
    "tools": [[TOOL]],
    "parallel_tool_calls": [False],
    "tool_choice": ["none"],
    "reasoning_effort": ["none", "high"],
    "chat_template_kwargs": [{}, {"enable_thinking": False}, {"thinking": True}],
    "priority": [0],
}
DROPPED: dict[str, list[Any]] = {
    "stream": [True, False],
    "stop": ["a", ["a", "b"]],
    "return_token_ids": [True],
    "include_reasoning": [True, False],
    "steer": [{}, {"show_interventions": True}],
    "metadata": [{"a": "b"}],
    "store": [False],
    "service_tier": ["auto"],
    "safety_identifier": ["x"],
    "prompt_cache_key": ["x"],
    "prompt_cache_retention": ["24h"],
    "verbosity": ["low"],
    "session_id": ["x"],
    "modalities": [["text"]],
    "use_beam_search": [False],
    "length_penalty": [1.0, 1],
    "echo": [False],
    "add_generation_prompt": [True],
    "continue_final_message": [False],
    "add_special_tokens": [False],
    "skip_special_tokens": [True],
    "spaces_between_special_tokens": [True],
}
BAD: dict[str, list[Any]] = {
    "model": ["", 7, "m" * 513, []],
    "temperature": ["hot", True, [], 10**30],
    "top_p": ["1"],
    "min_p": [{}],
    "top_k": [1.5, -2],
    "presence_penalty": [False],
    "frequency_penalty": ["x"],
    "repetition_penalty": [[1]],
    "seed": [1.5, 2**63, True],
    "n": [0, 5, "2", True],
    "max_tokens": [0, -1, 1.5, "9"],
    "max_completion_tokens": [0],
    "min_tokens": [-1],
    "ignore_eos": [1],
    "stop_token_ids": [[-1], ["a"], list(range(1025))],
    "include_stop_str_in_output": ["yes"],
    "logit_bias": [[], {"abc": 1}, {"5": 101}, {"5": "x"}, {"²": 1}, {str(i): 0 for i in range(1025)}],
    "allowed_token_ids": [[], list(range(1025)), [True], [1.0]],
    "bad_words": ["no", [""], ["x"] * 129, ["x" * 257]],
    "logprobs": [5],
    "top_logprobs": [-1, 21, 5],  # 5 without logprobs
    "cache_salt": ["", "s" * 129],
    "user": [7],
    "response_format": [
        "json",
        {},
        {"type": "structural_tag", "format": {}},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"d": "x" * 70_000}}},
        {"type": "json_object", "extra": 1},
    ],
    "structured_outputs": [{"regex": "x" * 2049}, {"structural_tag": "x"}, {"choice": ["a"] * 1025}, [], {"json": 1}],
    "tools": [[], [TOOL] * 129, [{}], [{"type": "web_search"}], [{"type": "function", "function": {}}], "x"],
    "parallel_tool_calls": ["no"],
    "tool_choice": ["auto", "sometimes", 5, {"type": "function", "function": {"name": 5}}],  # auto without tools
    "reasoning_effort": ["extreme", 5],
    "chat_template_kwargs": [{"foo": 1}, {"enable_thinking": "no"}, "x"],
    "priority": [-1, 1, False],
    "stream": ["yes", 1],
    "stream_options": [{"include_usage": True}, {"bogus": True}, {"include_usage": 1}],  # first: without stream
    "stop": [[""], ["a"] * 5, ["x" * 257], 5, [5]],
    "return_token_ids": [1],
    "include_reasoning": ["no"],
    "steer": [{"other": 1}, {"show_interventions": 1}, True],
    "metadata": ["x"],
    "modalities": [["text", "audio"]],
    "use_beam_search": [True, 0],
    "length_penalty": [2.0, True],
    "echo": [True],
    "add_generation_prompt": [False],
    "continue_final_message": [True],
    "add_special_tokens": [True],
    "skip_special_tokens": [False],
    "spaces_between_special_tokens": [False],
}
REFUSED = sorted(name for name, rule in RULES.items() if rule.kind == "refused" and name != "priority")


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{place}")
        for name, values in table.items()
        for place, value in enumerate(values)
    ]


def test_every_field_of_the_allow_list_has_a_case() -> None:
    assert set(RULES) == {*GOOD, *DROPPED, "stream_options", *REFUSED}
    assert set(BAD) >= {name for name in (*GOOD, *DROPPED) if RULES[name].check is not RULES["store"].check}


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_allowed_fields_are_forwarded_as_they_came(name: str, value: Any) -> None:
    assert check(**{name: value}).body == {"model": "m", "messages": HELLO, name: value}


@pytest.mark.parametrize(("name", "value"), cases(DROPPED))
def test_fields_that_are_the_proxys_own_or_defaults_are_not_forwarded(name: str, value: Any) -> None:
    assert check(**{name: value}).body == {"model": "m", "messages": HELLO}


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_bad_values_are_refused_by_name(name: str, value: Any) -> None:
    error = refusal(**{name: value})
    assert error.status == 400
    assert error.param is not None
    assert error.param.split(".")[0].split("[")[0] == name
    assert error.message.startswith(error.param)


@pytest.mark.parametrize("name", REFUSED)
def test_fields_that_blind_or_hurt_are_refused_with_a_reason(name: str) -> None:
    error = refusal(**{name: "x"})
    assert (error.param, error.code) == (name, "refused_field")
    assert ": is not accepted here: " in error.message


@pytest.mark.parametrize("name", sorted(RULES))
def test_null_means_the_default(name: str) -> None:
    if name == "model":
        assert refusal(model=None).code == "missing_field"
    else:
        assert check(**{name: None}).body.get(name) is None


def test_unknown_fields_are_refused_unless_the_operator_passes_them_on() -> None:
    error = refusal(shiny=1)
    assert (error.param, error.code) == ("shiny", "unknown_field")
    assert "extra_fields" in error.message
    assert check(Limits(extra_fields=frozenset({"shiny"})), shiny=[1]).body["shiny"] == [1]
    assert check(Limits(extra_fields=frozenset({"priority"})), priority=3).body["priority"] == 3


@pytest.mark.parametrize("name", ["kv_transfer_params", "chat_template", "include_reasoning", "n", "messages", "model"])
def test_the_operators_list_cannot_open_what_must_stay_shut(name: str) -> None:
    assert refusal(Limits(extra_fields=frozenset({name})), **{name: 10**9}).param is not None


def test_what_the_proxy_does_itself_is_told_apart() -> None:
    made = check(
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        n=3,
        stop="END",
        seed=7,
        max_tokens=50,
        max_completion_tokens=40,
        return_token_ids=True,
        include_reasoning=False,
        response_format={"type": "json_object"},
        tools=[TOOL],
        logprobs=True,
        top_logprobs=2,
        steer={"show_interventions": True},
    )
    assert (made.stream, made.include_usage, made.continuous_usage) == (True, True, True)
    assert (made.n, made.stop, made.seed, made.max_tokens) == (3, ["END"], 7, 40)
    assert made.client_wants_token_ids
    assert made.hide_reasoning
    assert made.structured
    assert made.tools
    assert made.logprobs
    assert made.show_interventions
    assert made.messages == HELLO


def test_an_ordinary_request_has_ordinary_defaults() -> None:
    made = check()
    assert (made.stream, made.n, made.stop, made.max_tokens, made.seed) == (False, 1, [], None, None)
    assert not any((made.include_usage, made.continuous_usage, made.client_wants_token_ids, made.hide_reasoning))
    assert not any((made.structured, made.tools, made.logprobs, made.show_interventions))
    assert not check(tools=[TOOL], tool_choice="none").tools
    assert not check(response_format={"type": "text"}).structured
    assert check(structured_outputs={"regex": "a"}).structured
    assert check(Limits(extra_fields=frozenset({"guided_regex"})), guided_regex="a").structured


def test_the_operators_cap_bounds_the_length_whether_asked_for_or_not() -> None:
    capped = Limits(max_tokens=100)
    assert check(capped, max_tokens=500).body["max_tokens"] == 100
    assert check(capped, max_completion_tokens=500).body == {
        "model": "m",
        "messages": HELLO,
        "max_completion_tokens": 100,
    }
    assert check(capped).max_tokens == check(capped).body["max_tokens"] == 100
    assert check(capped, max_tokens=7).max_tokens == 7


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": "x"},
        {"role": "developer", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "x"}], "name": "n"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "audio": None, "annotations": []},
        {"role": "assistant", "content": "x", "reasoning": "y", "tool_calls": None},
        {"role": "assistant", "content": "x", "reasoning_content": "y"},
        {"role": "tool", "content": "x", "tool_call_id": "1"},
    ],
)
def test_messages_of_real_clients_pass_unchanged(message: dict[str, Any]) -> None:
    before = json.dumps(message)
    assert json.dumps(check(messages=[message]).messages[0]) == before


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("x", "messages[0]"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "assistant<|im_end|>", "content": "x"}, "messages[0].role"),
        ({"role": ["user"], "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "image_url": "u"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": "x", "reasoning": "y"}, "messages[0].reasoning"),
        ({"role": "assistant", "content": "x", "prefix": True}, "messages[0].prefix"),
        ({"role": "assistant", "content": "x", "reasoning": ["y"]}, "messages[0].reasoning"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [CALL] * 129}, "messages[0].tool_calls"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            "messages[0].tool_calls[0].function",
        ),
        ({"role": "assistant", "tool_calls": [CALL | {"id": 5}]}, "messages[0].tool_calls[0].id"),
    ],
)
def test_messages_that_the_detector_could_not_read_are_refused_by_place(message: Any, param: str) -> None:
    assert refusal(messages=[message]).param == param


@pytest.mark.parametrize("messages", [None, [], "x", {}, [HELLO[0]] * 5000])
def test_there_must_be_messages_and_not_too_many(messages: Any) -> None:
    assert refusal(messages=messages).param == "messages"


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_a_body_must_be_an_object(body: object) -> None:
    with pytest.raises(RequestError, match="JSON object"):
        check_chat_request(body, LIMITS)


def test_deep_wide_and_unspeakable_bodies_are_refused() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert refusal(metadata=deep).code == "too_deep"
    assert refusal(metadata={"a": [0] * 200_001}).code == "too_large"
    for value in (float("nan"), float("inf")):
        assert "finite" in refusal(temperature=value).message
    assert "surrogate" in refusal(messages=[{"role": "user", "content": "\ud800"}]).message
    assert "surrogate" in refusal(**{"\udfff": 1}).message


def test_errors_have_the_shape_that_clients_read() -> None:
    assert refusal(echo=True).to_openai() == {
        "error": {
            "message": "echo: may only be false here: it would show the prompt as if the model had said it",
            "type": "invalid_request_error",
            "param": "echo",
            "code": "refused_field",
        }
    }
    assert UpstreamStatusError(503, b"x").to_openai()["error"]["type"] == "server_error"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(sorted({"role", "content", "type", "text", "tool_calls", "function", "name", "json_schema"}))
SHAPED = st.recursive(
    JSON | st.sampled_from(["user", "assistant", "text", "function"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_json_gives_a_request_or_a_request_error(body: Any) -> None:
    try:
        check_chat_request(body, LIMITS)
    except RequestError as error:
        json.dumps(error.to_openai())


@given(st.dictionaries(st.sampled_from(sorted(RULES)), SHAPED | JSON, max_size=6), SHAPED)
def test_any_value_in_any_field_gives_a_request_or_a_request_error(fields: dict[str, Any], message: Any) -> None:
    body = {"model": "m", "messages": [message], **fields}
    try:
        made = check_chat_request(body, LIMITS)
    except RequestError as error:
        json.dumps(error.to_openai())
    else:
        assert set(made.body) <= set(body)
        assert all(RULES[name].kind == "kept" or name == "priority" for name in made.body if name != "messages")

"""The gate for chat requests: what a client may ask for, and what the proxy answers itself. Pure functions.

Rules kept here: a body passes only as a whole, checked against the allow-list (`proxy.guard_fields`) and bounded in
depth and size; every failure is a RequestError that names the field and the fix; the detector must get to read, as
text, what the model reads from the messages. What passes keeps its meaning: it goes on as it came.
"""

import math
from dataclasses import dataclass
from typing import Any

from proxy.errors import RequestError
from proxy.guard_checks import Limits, bad
from proxy.guard_fields import RULES, may_pass_unchecked

__all__ = ["ChatRequest", "Limits", "check_chat_request"]

# Any other role would let a client write the template's own turn marks.
_ROLES = ("system", "developer", "user", "assistant", "tool")
_MAX_TOOL_CALLS = 128
_MAX_NAME_CHARS = 512
# Keys of messages, beside role and content, by role. Templates may print any key they are given, so others are refused.
_TEXT_KEYS = {"assistant": ("name", "reasoning", "reasoning_content", "refusal"), "tool": ("name", "tool_call_id")}
# Left in dumps of earlier answers; engines do not read them.
_INERT_KEYS = ("annotations", "audio", "function_call")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request that passed.

    `body` is what an engine may be sent: the client's fields less those that the proxy handles itself, which follow.
    `stop`: applied by the proxy to the answer. `max_tokens`: over all legs, None if unbounded. `hide_reasoning`: this
    client wants none. `structured`: the answer is bound to a grammar. `tools`: it may become a tool call.
    """

    body: dict[str, Any]
    messages: list[dict[str, Any]]
    stream: bool
    n: int
    stop: list[str]
    max_tokens: int | None
    seed: int | None
    include_usage: bool
    continuous_usage: bool
    client_wants_token_ids: bool
    hide_reasoning: bool
    structured: bool
    tools: bool
    logprobs: bool
    show_interventions: bool


def check_chat_request(body: object, limits: Limits) -> ChatRequest:
    """The request, checked. `body` is parsed JSON. Raises RequestError, and nothing else, for what must not pass."""
    if not isinstance(body, dict):
        raise RequestError(400, "the request body must be a JSON object", code="invalid_json")
    _check_bounds(body, limits)
    for name in ("model", "messages"):
        if body.get(name) is None:
            raise bad(name, "is missing", "missing_field")
    messages = _messages(body["messages"], limits)
    checked = _fields(body, limits)
    _check_together(checked)
    _cap_tokens(checked, limits)
    return _made(checked, messages)


def _fields(body: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Every field by its rule. A null means the default and passes as it is, wherever the field may be sent at all."""
    checked: dict[str, Any] = {}
    for name, value in body.items():
        rule = RULES.get(name)
        if name == "messages" or may_pass_unchecked(name, limits):
            checked[name] = value
        elif rule is None:
            raise bad(
                name[:100],
                "is not a field that this server knows; the operator can pass it on with limits.extra_fields",
                "unknown_field",
            )
        elif value is not None:
            checked[name] = rule.check(name, value, limits)
        elif rule.kind == "kept":
            checked[name] = None
    return checked


def _check_together(checked: dict[str, Any]) -> None:
    """Fields that only make sense with another, refused with the words of the one that is wrong."""
    if checked.get("stream_options") and not checked.get("stream"):
        raise bad("stream_options", "can only be given with stream: true")
    if checked.get("top_logprobs") and not checked.get("logprobs"):
        raise bad("top_logprobs", "needs logprobs: true")
    if checked.get("tool_choice") not in (None, "none") and not checked.get("tools"):
        raise bad("tool_choice", "needs tools")
    if checked.get("allowed_token_ids") == []:
        raise bad("allowed_token_ids", "must hold at least one id; leave it out to allow all")


def _cap_tokens(checked: dict[str, Any], limits: Limits) -> None:
    """Where the operator caps the length, a request that names none gets the cap."""
    given = (checked.get("max_tokens"), checked.get("max_completion_tokens"))
    if limits.max_tokens is not None and given == (None, None):
        checked["max_tokens"] = limits.max_tokens


def _made(checked: dict[str, Any], messages: list[dict[str, Any]]) -> ChatRequest:
    options = checked.get("stream_options") or {}
    form = (checked.get("response_format") or {}).get("type", "text")
    max_tokens = checked.get("max_completion_tokens")  # the newer name wins, as in the engine
    dropped = {name for name in checked if name in RULES and RULES[name].kind in ("dropped", "fixed")}
    return ChatRequest(
        body={name: value for name, value in checked.items() if name not in dropped},
        messages=messages,
        stream=bool(checked.get("stream")),
        n=checked.get("n") or 1,
        stop=checked.get("stop") or [],
        max_tokens=checked.get("max_tokens") if max_tokens is None else max_tokens,
        seed=checked.get("seed"),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        client_wants_token_ids=bool(checked.get("return_token_ids")),
        hide_reasoning=checked.get("include_reasoning") is False,
        structured=form != "text"
        or bool(checked.get("structured_outputs"))
        or any(name.startswith("guided_") and value is not None for name, value in checked.items()),
        tools=bool(checked.get("tools")) and checked.get("tool_choice") != "none",
        logprobs=bool(checked.get("logprobs")),
        show_interventions=bool((checked.get("steer") or {}).get("show_interventions")),
    )


def _check_bounds(body: dict[str, Any], limits: Limits) -> None:
    """Depth, number of values, finite numbers, and text that is text. Iterative: depth must not become recursion."""
    level: list[Any] = [body]
    num_values = 0
    for _ in range(limits.max_depth + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            else:
                _check_scalar(value)
        num_values += len(below)
        if num_values > limits.max_values:
            raise RequestError(400, f"the request body holds more than {limits.max_values} values", code="too_large")
        if not below:
            return
        level = below
    raise RequestError(400, f"the request body is nested deeper than {limits.max_depth} levels", code="too_deep")


def _check_scalar(value: object) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RequestError(400, "the request body holds half a surrogate pair, which is no text") from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise RequestError(400, "the request body holds a number that is not finite")
    elif value is not None and not isinstance(value, bool | int):
        raise RequestError(400, f"the request body holds a {type(value).__name__}, which is no JSON value")


def _messages(value: object, limits: Limits) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= limits.max_messages:
        raise bad("messages", f"must be a list of 1 to {limits.max_messages} messages")
    for index, message in enumerate(value):
        _check_message(f"messages[{index}]", message)
    return value


def _check_message(at: str, message: object) -> None:
    if not isinstance(message, dict):
        raise bad(at, "must be an object with role and content")
    role = message.get("role")
    if role not in _ROLES:
        raise bad(f"{at}.role", f"must be one of {', '.join(_ROLES)}")
    calls = message.get("tool_calls")
    for key, value in message.items():
        if key in ("role", "content", "tool_calls") or value is None:
            continue
        if key in _TEXT_KEYS.get(role, ("name",)):
            if not isinstance(value, str):
                raise bad(f"{at}.{key}", "must be a string")
        elif not (key in _INERT_KEYS and role == "assistant"):
            raise bad(f"{at}.{key[:100]}", f"is not allowed in a message of role {role}", "unknown_field")
    if calls is not None:
        if role != "assistant":
            raise bad(f"{at}.tool_calls", "only assistant messages may hold tool calls")
        _check_calls(f"{at}.tool_calls", calls)
    _check_content(f"{at}.content", message.get("content"), may_be_empty=role == "assistant")


def _check_content(at: str, content: object, *, may_be_empty: bool) -> None:
    if isinstance(content, str) or (content is None and may_be_empty):
        return
    if not isinstance(content, list):
        raise bad(at, "must be a string or a list of text parts")
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            raise bad(f"{at}[{index}]", 'must be {"type": "text", "text": …}')
        if part.get("type") != "text" or set(part) != {"type", "text"}:
            raise bad(f"{at}[{index}]", "only text parts are accepted: the detector reads text", "unsupported_content")
        if not isinstance(part["text"], str):
            raise bad(f"{at}[{index}].text", "must be a string")


def _check_calls(at: str, calls: object) -> None:
    if not isinstance(calls, list) or len(calls) > _MAX_TOOL_CALLS:
        raise bad(at, f"must be a list of at most {_MAX_TOOL_CALLS} tool calls")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            raise bad(
                f"{at}[{index}]", 'must be {"id": …, "type": "function", "function": {"name": …, "arguments": …}}'
            )
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS or not isinstance(arguments, str):
            raise bad(f"{at}[{index}].function", "must hold a name and arguments, both strings")
        if not isinstance(call.get("id"), str | None):
            raise bad(f"{at}[{index}].id", "must be a string")

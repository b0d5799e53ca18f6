"""Checks of single values in a request: type, size, and the fix in words.

Rules kept here: a check returns the value to go on with, or raises a RequestError that names the field; ranges that the
engine itself checks well (temperature and the like) are left to it, so that its own message reaches the client.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.errors import RequestError

# vLLM's and OpenAI's own bound on stop strings.
MAX_STOPS = 4
_MAX_STOP_CHARS = 256
# Beyond 1,024 allowed ids an engine was seen to die; other lists of ids have no legitimate need for more.
MAX_TOKEN_IDS = 1024
# OpenAI's bounds.
_MAX_LOGIT_BIAS, _MAX_BIAS, MAX_TOP_LOGPROBS, _MAX_TOOLS = 1024, 100, 20, 128
MAX_BAD_WORDS, MAX_WORD_CHARS = 128, 256
# Grammars are compiled on the engine's CPU, for every client together: large ones stall it.
_MAX_SCHEMA_CHARS, _MAX_PATTERN_CHARS, _MAX_CHOICES = 65_536, 2048, 1024
MAX_NAME_CHARS = 512
INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the operator. `max_tokens` None: no cap. `extra_fields` are forwarded unchecked."""

    max_n: int = 16
    max_tokens: int | None = None
    extra_fields: frozenset[str] = frozenset()
    max_messages: int = 4096
    max_depth: int = 32  # levels of nesting in the whole body; JSON schemas of practice stay below 20
    max_values: int = 200_000  # values in the whole body, so that checking stays a matter of milliseconds


Check = Callable[[str, Any, Limits], Any]


def bad(name: str, message: str, code: str = "invalid_value") -> RequestError:
    """The refusal of one field."""
    return RequestError(400, f"{name}: {message}", name, code)


def is_int(value: object) -> bool:
    """Whole numbers that fit the engine's 64 bits; true and false are none."""
    return type(value) is int and -INT64 <= value < INT64


def number(name: str, value: Any, _: Limits) -> Any:
    if not (is_int(value) or (type(value) is float and math.isfinite(value))):
        raise bad(name, "must be a number")
    return value


def boolean(name: str, value: Any, _: Limits) -> Any:
    """True or false."""
    if type(value) is not bool:
        raise bad(name, "must be true or false")
    return value


def integer(low: int, high: int = INT64 - 1) -> Check:
    def check(name: str, value: Any, _: Limits) -> Any:
        if not is_int(value) or not low <= value <= high:
            raise bad(name, f"must be a whole number from {low} to {high}")
        return value

    return check


def string(max_chars: int, *, one_of: tuple[str, ...] = ()) -> Check:
    def check(name: str, value: Any, _: Limits) -> Any:
        if not isinstance(value, str) or not value or len(value) > max_chars:
            raise bad(name, f"must be a string of 1 to {max_chars} characters")
        if one_of and value not in one_of:
            raise bad(name, f"must be one of {', '.join(one_of)}")
        return value

    return check


def strings(max_count: int, max_chars: int) -> Check:
    def check(name: str, value: Any, limits: Limits) -> Any:
        if not isinstance(value, list) or len(value) > max_count:
            raise bad(name, f"must be a list of at most {max_count} strings")
        for index, item in enumerate(value):
            string(max_chars)(f"{name}[{index}]", item, limits)
        return value

    return check


def token_ids(name: str, value: Any, _: Limits) -> Any:
    if not isinstance(value, list) or len(value) > MAX_TOKEN_IDS:
        raise bad(name, f"must be a list of at most {MAX_TOKEN_IDS} token ids")
    if not all(is_int(item) and item >= 0 for item in value):
        raise bad(name, "must hold token ids, whole numbers from 0")
    return value


def stop(name: str, value: Any, limits: Limits) -> Any:
    stops = [value] if isinstance(value, str) else value
    return strings(MAX_STOPS, _MAX_STOP_CHARS)(name, stops, limits)


def max_tokens(name: str, value: Any, limits: Limits) -> Any:
    integer(1)(name, value, limits)
    return value if limits.max_tokens is None else min(value, limits.max_tokens)


def choices(name: str, value: Any, limits: Limits) -> Any:
    return integer(1, limits.max_n)(name, value, limits)


def logit_bias(name: str, value: Any, limits: Limits) -> Any:
    if not isinstance(value, dict) or len(value) > _MAX_LOGIT_BIAS:
        raise bad(name, f"must be an object of at most {_MAX_LOGIT_BIAS} token ids")
    for id, bias in value.items():
        if not (id.isascii() and id.isdigit() and len(id) <= 10):
            raise bad(name, "its keys must be token ids")
        if abs(number(name, bias, limits)) > _MAX_BIAS:
            raise bad(name, f"its values must lie between -{_MAX_BIAS} and {_MAX_BIAS}")
    return value


def sub_object(name: str, value: Any, allowed: dict[str, Check], limits: Limits) -> dict[str, Any]:
    """An object with these keys only; null values pass."""
    if not isinstance(value, dict):
        raise bad(name, "must be an object")
    for key, item in value.items():
        if key not in allowed:
            raise bad(f"{name}.{key}", f"is not allowed; {name} may hold {', '.join(sorted(allowed))}", "unknown_field")
        if item is not None:
            allowed[key](f"{name}.{key}", item, limits)
    return value


def object_of(**allowed: Check) -> Check:
    return lambda name, value, limits: sub_object(name, value, allowed, limits)


def sized_object(name: str, value: Any, _: Limits) -> Any:
    """An object, such as a JSON schema, of bounded size; its depth is bounded with the whole body's."""
    if not isinstance(value, dict):
        raise bad(name, "must be an object")
    if len(json.dumps(value)) > _MAX_SCHEMA_CHARS:
        raise bad(name, f"must be at most {_MAX_SCHEMA_CHARS} characters of JSON")
    return value


def _schema(name: str, value: Any, limits: Limits) -> Any:
    """vLLM takes a schema as an object or as JSON text."""
    return (
        string(_MAX_SCHEMA_CHARS)(name, value, limits) if isinstance(value, str) else sized_object(name, value, limits)
    )


def response_format(name: str, value: Any, limits: Limits) -> Any:
    sub_object(
        name,
        value,
        {
            "type": string(32, one_of=("text", "json_object", "json_schema")),
            "json_schema": object_of(
                name=string(MAX_NAME_CHARS),
                description=string(_MAX_SCHEMA_CHARS),
                schema=sized_object,
                strict=boolean,
            ),
        },
        limits,
    )
    if value.get("type") is None:
        raise bad(f"{name}.type", "is missing")
    if value["type"] == "json_schema" and not isinstance(value.get("json_schema"), dict):
        raise bad(f"{name}.json_schema", "is missing")
    return value


def structured(name: str, value: Any, limits: Limits) -> Any:
    return sub_object(
        name,
        value,
        {
            "json": _schema,
            "regex": string(_MAX_PATTERN_CHARS),
            "choice": strings(_MAX_CHOICES, _MAX_PATTERN_CHARS),
            "grammar": string(_MAX_SCHEMA_CHARS),
            "json_object": boolean,
            "disable_any_whitespace": boolean,
            "disable_additional_properties": boolean,
        },
        limits,
    )


def tools(name: str, value: Any, limits: Limits) -> Any:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_TOOLS:
        raise bad(name, f"must be a list of 1 to {_MAX_TOOLS} tools; leave it out for none")
    for index, tool in enumerate(value):
        at = f"{name}[{index}]"
        sized_object(at, tool, limits)
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, dict):
            raise bad(at, 'must be {"type": "function", "function": {…}}')
        string(MAX_NAME_CHARS)(f"{at}.function.name", function.get("name"), limits)
    return value


def tool_choice(name: str, value: Any, limits: Limits) -> Any:
    if isinstance(value, str):
        return string(16, one_of=("none", "auto", "required"))(name, value, limits)
    function = object_of(name=string(MAX_NAME_CHARS))
    return sub_object(name, value, {"type": string(16, one_of=("function",)), "function": function}, limits)


def text_only(name: str, value: Any, _: Limits) -> Any:
    if value != ["text"]:
        raise bad(name, 'may only be ["text"]: the detector reads text')
    return value


def anything(_: str, value: Any, __: Limits) -> Any:
    return value

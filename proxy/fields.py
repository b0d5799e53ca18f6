"""Values inside the engine's JSON, checked: each function gives what is well formed, or raises UpstreamError.

Rules kept here: text that a client might read is either read by the proxy too, or named in a list of what holds none;
everything else counts as unread, and is taken out of what is forwarded.
"""

import json
from typing import Any

from proxy.errors import UpstreamError


def load(payload: bytes) -> dict[str, Any]:
    """The JSON object of one event. Raises UpstreamError, also for an error that the engine reports."""
    try:
        chunk = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise UpstreamError("the upstream sent a stream event that is not JSON") from error
    if not isinstance(chunk, dict):
        raise UpstreamError("the upstream sent a stream event that is not a JSON object")
    if chunk.get("error") is not None or chunk.get("object") == "error":
        raise UpstreamError(_error_message(chunk))
    return chunk


def _error_message(chunk: dict[str, Any]) -> str:
    error = chunk.get("error")
    message = error.get("message") if isinstance(error, dict) else error or chunk.get("message")
    return f"the upstream reported an error: {str(message)[:500]}"


# What a choice and a delta are known to hold, read here or no text. Anything else might be text that nobody judges.
_CHOICE_FIELDS = frozenset(("index", "delta", "message", "logprobs", "finish_reason", "stop_reason", "token_ids"))
_TEXT_FIELDS = frozenset(("role", "content", "reasoning", "reasoning_content", "tool_calls"))


def only_choice(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """The choice of a chunk or body of one choice; None where there is none. Raises UpstreamError."""
    choices = chunk.get("choices")
    if choices is None or choices == []:
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise UpstreamError("the upstream sent malformed choices")
    if len(choices) > 1:
        raise UpstreamError("the upstream sent several choices where one was asked for")
    return choices[0]


def check_index(choice: dict[str, Any]) -> None:
    """Of one choice the index is 0. Raises UpstreamError."""
    if choice.get("index") not in (None, 0):
        raise UpstreamError("the upstream sent a choice that nobody asked for")


def drop_unread(choice: dict[str, Any], part: str) -> bool:
    """Take out of a choice, and of its delta or message, what is not read here. Whether there was any."""
    dropped = False
    for holder, known in ((choice, _CHOICE_FIELDS), (choice.get(part) or {}, _TEXT_FIELDS)):
        for name in [name for name, value in holder.items() if name not in known and value]:
            del holder[name]
            dropped = True
    return dropped


def reasoning_of(message: dict[str, Any]) -> tuple[str | None, str]:
    """The field that carries reasoning (None: there is none) and the text; two fields with two texts are both read."""
    texts = {name: text for name in ("reasoning", "reasoning_content") if (text := text_of(message.get(name)))}
    return next(iter(texts), None), "".join(dict.fromkeys(texts.values()))


def call_text(calls: object) -> str:
    """What a model has said in tool calls: names and arguments. Raises UpstreamError."""
    if calls is None:
        return ""
    if not isinstance(calls, list):
        raise UpstreamError("the upstream sent malformed tool calls")
    said = ""
    for call in calls:
        function = call.get("function") or {} if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise UpstreamError("the upstream sent malformed tool calls")
        said += text_of(function.get("name")) + text_of(function.get("arguments"))
    return said


def finish_reason_of(choice: dict[str, Any]) -> str | None:
    """Raises UpstreamError."""
    reason = choice.get("finish_reason")
    if reason is not None and not isinstance(reason, str):
        raise UpstreamError("the upstream sent a finish reason that is not a string")
    return reason


def usage_of(value: object) -> dict[str, Any] | None:
    """Token counts, None where they are not well formed."""
    if not isinstance(value, dict) or not isinstance(value.get("prompt_tokens"), int | None):
        return None
    return value if isinstance(value.get("completion_tokens_details"), dict | None) else None


def chat_entries(logprobs: object) -> list[dict[str, Any]] | None:
    """Entries of chat log-probabilities, one a token. Raises UpstreamError."""
    entries = logprobs.get("content") if isinstance(logprobs, dict) else logprobs
    if entries is not None and not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise UpstreamError("the upstream sent malformed log-probabilities")
    return entries


def num_bytes(entries: list[dict[str, Any]]) -> int:
    """Bytes of text that the entries tell of."""
    return sum(len(entry.get("bytes") or str(entry.get("token", "")).encode("utf-8", "replace")) for entry in entries)


def ids_of(value: object) -> list[int]:
    """Token ids. Raises UpstreamError."""
    if value is None:
        return []
    if isinstance(value, list) and all(type(item) is int for item in value):
        return value
    raise UpstreamError("the upstream sent malformed token ids")


def text_of(value: object) -> str:
    """Text, empty for null. Raises UpstreamError."""
    if not value:
        return ""
    if not isinstance(value, str):
        raise UpstreamError("the upstream sent text that is not a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UpstreamError("the upstream sent half a surrogate pair, which is no text") from error
    return value


def chat_logprobs(value: object) -> list[dict[str, Any]] | None:
    """Completion log-probabilities (parallel lists) or generate's (already chat-like), as chat entries."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("content"), list):
        return chat_entries(value)
    tokens, values = value.get("tokens") or [], value.get("token_logprobs") or []
    tops = value.get("top_logprobs") or [None] * len(tokens)
    try:
        return [
            {**_entry(token, logprob), "top_logprobs": [_entry(t, p) for t, p in (top or {}).items()]}
            for token, logprob, top in zip(tokens, values, tops, strict=False)
        ]
    except (TypeError, AttributeError) as error:
        raise UpstreamError("the upstream sent malformed log-probabilities") from error


def _entry(token: str, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}

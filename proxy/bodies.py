"""Bodies of requests that are not streamed, and usage over legs and choices.

An untouched completion is given to the client byte for byte. Only where an intervention, a stop string or several
choices make that impossible is a body put together, from the engine's own body with the changed fields replaced.
"""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from proxy.records import Transcript


class Ended(Protocol):
    """What is asked of a session that has finished."""

    transcript: Transcript
    finish_reason: str | None
    usage_seen: dict[str, Any] | None

    @property
    def is_rewritten(self) -> bool:
        """Whether the client gets something else than the engine sent."""

    num_first_shown: int | None

    @property
    def shown_ids(self) -> list[int]:
        """Ids behind what the client was shown, triggers included."""

    @property
    def generated_tokens(self) -> int:
        """Tokens that the engine generated over all legs, discarded ones included."""


class BodyCollector:
    """Takes one choice's chunks and gives them back as a message."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._texts: dict[str, list[str]] = {}
        self._tool_calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}
        self._told: list[dict[str, Any]] = []

    async def add(self, payload: bytes) -> None:
        """One chunk, as a streaming client would get it."""
        chunk = json.loads(payload)
        if "steer" in chunk:
            self._told.append(chunk["steer"])
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    self._tool_calls += [{k: v for k, v in call.items() if k != "index"} for call in value]
                elif isinstance(value, str):
                    self._texts.setdefault(name, []).append(value)
            self._logprobs += (choice.get("logprobs") or {}).get("content") or []
            if choice.get("finish_reason") is not None:
                self._last = choice

    def without_reasoning(self, original: dict[str, Any]) -> dict[str, Any]:
        """The engine's choice for a client that wants no reasoning."""
        message = {**original["message"], "content": "".join(self._texts.get("content", [])) or None}
        message |= {name: None for name in ("reasoning", "reasoning_content") if name in message}
        return {**original, "index": self._index, "message": message}

    def choice(self, original: dict[str, Any], session: Ended) -> dict[str, Any]:
        """The engine's choice with what was collected in place of what it said."""
        message = dict(original["message"])
        for name in ("reasoning", "reasoning_content", "content"):
            if name in message or name in self._texts:
                message[name] = "".join(self._texts.get(name, [])) or None
        if "tool_calls" in message or self._tool_calls:
            message["tool_calls"] = self._tool_calls
        changed = dict(original) | {
            "index": self._index,
            "message": message,
            "finish_reason": self._last.get("finish_reason"),
            "stop_reason": self._last.get("stop_reason"),
        }
        if original.get("logprobs") is not None:
            first = (original["logprobs"].get("content") or [])[: session.num_first_shown]
            changed["logprobs"] = {"content": first + self._logprobs}
        if original.get("token_ids") is not None:
            changed["token_ids"] = session.shown_ids
        return changed

    @staticmethod
    def assemble(
        collectors: "list[BodyCollector]", sessions: Sequence[Ended], raw: list[bytes], *, hides_reasoning: bool
    ) -> bytes:
        """One body from each choice's own: `raw` as the client may see them, token ids excised."""
        bodies = [json.loads(body) for body in raw]
        choices = []
        for index, (body, collector, session) in enumerate(zip(bodies, collectors, sessions, strict=True)):
            original = body["choices"][0]
            if session.is_rewritten:
                choices.append(collector.choice(original, session))
            elif hides_reasoning:
                choices.append(collector.without_reasoning(original))
            else:
                choices.append({**original, "index": index})
        merged: dict[str, Any] = bodies[0] | {"choices": choices, "usage": merged_usage(sessions)}
        told = [event for collector in collectors for event in collector._told]
        if told:
            merged["steer"] = told
        return json.dumps(merged, ensure_ascii=False, separators=(",", ":")).encode()


def merged_usage(sessions: Sequence[Ended]) -> dict[str, Any]:
    """Usage of all choices: the prompt once; every generated token, discarded ones and triggers included."""
    usage = dict(sessions[0].usage_seen or {})
    prompt = usage.get("prompt_tokens")
    if prompt is None:
        prompt = len(sessions[0].transcript.prompt_ids or [])
    completion = sum(session.generated_tokens + session.transcript.trigger_tokens for session in sessions)
    usage |= {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    if usage.get("completion_tokens_details") is not None:
        if any(session.is_rewritten for session in sessions):
            del usage["completion_tokens_details"]  # the engine's split is of its own text, which was not shown
        else:
            details = [(session.usage_seen or {}).get("completion_tokens_details") or {} for session in sessions]
            usage["completion_tokens_details"] = {
                name: sum(detail.get(name) or 0 for detail in details) if isinstance(value, int) else value
                for name, value in details[0].items()
            }
    return usage

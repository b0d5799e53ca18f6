"""The engine's JSON shapes, as recorded from vLLM 0.32: chunks and bodies of the chat, raw and generate endpoints.

Key order is the engine's. `token_ids` "null": the keys are there, null unless asked for; "absent": left out unasked;
"unsupported": an engine that does not know them at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.upstream.script import Generation, Script
from tests.upstream.tokens import decode, token_bytes

FINGERPRINT = "scripted-1"


@dataclass(slots=True)
class Piece:
    """Tokens that came together: their ids, what each channel gains, and calls that the tool parser finished."""

    ids: list[int]
    text: str = ""
    reasoning: str = ""
    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What a request asked its answer to look like."""

    script: Script
    generation: Generation
    id: str
    created: int

    @property
    def _asks_ids(self) -> bool:
        return bool(self.generation.body.get("return_token_ids")) and self.script.token_ids != "unsupported"

    def _ids(self, name: str, ids: Sequence[int] | None) -> dict[str, Any]:
        if self._asks_ids:
            return {name: None if ids is None else list(ids)}
        return {name: None} if self.script.token_ids == "null" else {}

    @property
    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "created": self.created, "model": self.script.model}

    def _chunk(self, **rest: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.generation.path == "chat" else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.script.model, **rest}

    def role(self, choice: int) -> dict[str, Any]:
        """The first chat chunk of a choice."""
        delta = {"role": "assistant", "content": ""}
        head: dict[str, Any] = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}
        prompt = self._ids("prompt_token_ids", self.generation.prompt_ids)
        text = {"prompt_text": None} if self.script.token_ids == "null" else {}  # engines of the null kind have both
        return self._chunk(choices=[head], **prompt, **text)

    def delta(self, choice: int, piece: Piece, *, is_last_alone: bool) -> dict[str, Any] | None:
        """A chat chunk; None where the engine would send none (nothing to say and no ids asked for)."""
        delta: dict[str, Any] = {}
        if self.script.style == "inline":
            if piece.text:
                delta["content"] = piece.text
        else:
            if piece.content:
                delta["content"] = piece.content
            if piece.reasoning:
                delta[self.script.style] = piece.reasoning
        if piece.calls:
            delta = {"content": None, "tool_calls": piece.calls}
        logprobs = self._chat_logprobs(piece.ids)
        if not delta and piece.finish_reason is None and logprobs is None and not self._asks_ids:
            return None
        head: dict[str, Any] = {
            "index": choice,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }
        if piece.finish_reason is not None:
            head["stop_reason"] = None
        chunk = self._chunk(choices=[head | self._ids("token_ids", piece.ids)])
        if piece.finish_reason is not None and is_last_alone:
            chunk["system_fingerprint"] = FINGERPRINT
        return chunk

    def raw(self, piece: Piece, *, is_first: bool) -> dict[str, Any]:
        """A chunk of `/v1/completions`."""
        head: dict[str, Any] = {"index": 0, "text": piece.text, "logprobs": self._raw_logprobs(piece.ids)}
        head |= {"finish_reason": piece.finish_reason, "stop_reason": None}
        head |= self._ids("prompt_token_ids", self.generation.prompt_ids if is_first else None)
        return self._chunk(choices=[head | self._ids("token_ids", piece.ids)])

    def generate(self, piece: Piece) -> dict[str, Any]:
        """A chunk of `/inference/v1/generate` in text mode: ids always."""
        logprobs = self._chat_logprobs(piece.ids)
        head: dict[str, Any] = {"index": 0, "finish_reason": piece.finish_reason, "stop_reason": None}
        head |= {"token_ids": piece.ids, "routed_experts": None, "text": piece.text, "logprobs": logprobs}
        return {"request_id": self.id, "usage": None, "output_mode": "text", "choices": [head]}

    def usage(self, num_completion: int, num_reasoning: int, *, detailed: bool) -> dict[str, Any]:
        """Token counts; a running count is not `detailed`."""
        num_prompt = len(self.generation.prompt_ids)
        counts: dict[str, Any] = {
            "prompt_tokens": num_prompt,
            "total_tokens": num_prompt + num_completion,
            "completion_tokens": num_completion,
        }
        if detailed:
            counts["prompt_tokens_details"] = {"cached_tokens": 0}
        if self.generation.path == "chat":
            counts["completion_tokens_details"] = {"reasoning_tokens": num_reasoning}
        return counts

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk of `stream_options.include_usage`."""
        return self._chunk(choices=[], usage=usage, system_fingerprint=FINGERPRINT)

    def body(self, choices: list[list[Piece]], usage: dict[str, Any]) -> dict[str, Any]:
        """A whole chat completion."""
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.script.model,
            "choices": [self._whole(index, pieces) for index, pieces in enumerate(choices)],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage,
            "prompt_logprobs": None,
            **self._ids("prompt_token_ids", self.generation.prompt_ids),
            "kv_transfer_params": None,
        }

    def raw_body(self, pieces: list[Piece], usage: dict[str, Any]) -> dict[str, Any]:
        """A whole text completion."""
        ids = [id for piece in pieces for id in piece.ids]
        head: dict[str, Any] = {"index": 0, "text": "".join(piece.text for piece in pieces)}
        head |= {"logprobs": self._raw_logprobs(ids), "finish_reason": pieces[-1].finish_reason, "stop_reason": None}
        head |= self._ids("token_ids", ids) | self._ids("prompt_token_ids", self.generation.prompt_ids)
        return {**self._chunk(choices=[head]), "system_fingerprint": FINGERPRINT, "usage": usage}

    def _whole(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        ids = [id for piece in pieces for id in piece.ids]
        inline = self.script.style == "inline"
        content = "".join(piece.text if inline else piece.content for piece in pieces)
        calls = _joined_calls([call for piece in pieces for call in piece.calls])
        message: dict[str, Any] = {"role": "assistant", "content": content or None, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        if not inline:
            message[self.script.style] = "".join(piece.reasoning for piece in pieces) or None
        head = {"index": index, "message": message, "logprobs": self._chat_logprobs(ids)}
        head |= {"finish_reason": pieces[-1].finish_reason, "stop_reason": None}
        return head | self._ids("token_ids", ids)

    def _num_top(self) -> int | None:
        body = self.generation.body
        if "sampling_params" in body:
            asked = body["sampling_params"].get("logprobs")
            return None if asked is None else int(asked)
        if not body.get("logprobs"):
            return None
        return int(body.get("top_logprobs") or 0) if self.generation.path == "chat" else int(body["logprobs"])

    def _chat_logprobs(self, ids: list[int]) -> dict[str, Any] | None:
        if (num_top := self._num_top()) is None:
            return None
        return {
            "content": [{**_entry(id), "top_logprobs": [_entry(other) for other in _top(id, num_top)]} for id in ids]
        }

    def _raw_logprobs(self, ids: list[int]) -> dict[str, Any] | None:
        if (num_top := self._num_top()) is None:
            return None
        return {
            "text_offset": [0] * len(ids),
            "token_logprobs": [_logprob(id) for id in ids],
            "tokens": [decode([id]) for id in ids],
            "top_logprobs": [{decode([other]): _logprob(other) for other in _top(id, num_top)} for id in ids],
        }


def _joined_calls(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        known = calls.setdefault(
            delta["index"], {"id": delta.get("id"), "type": "function", "function": {"name": "", "arguments": ""}}
        )
        for key, text in delta["function"].items():
            known["function"][key] += text
    return list(calls.values())


def _logprob(id: int) -> float:
    """Not a model's opinion: any number that differs between tokens."""
    return -0.05 - (id % 17) / 16


def _top(id: int, count: int) -> list[int]:
    return [id, *range(count - 1)] if count else []


def _entry(id: int) -> dict[str, Any]:
    return {"token": decode([id]), "logprob": _logprob(id), "bytes": list(token_bytes(id))}

"""JSON shapes of the embedded server's answers: vLLM 0.32's, key for key, as far as the subset goes."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from proxy.embedded.textstream import Delta

FINGERPRINT = "steer-embedded"


@dataclass(frozen=True, slots=True)
class Shape:
    """One response: what its frames have in common."""

    kind: Literal["chat", "text"]
    model: str
    prompt_ids: list[int]
    with_ids: bool
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @staticmethod
    def new_id(kind: Literal["chat", "text"]) -> str:
        return f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex[:16]}"

    def _chunk(self, **rest: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, **rest}

    def role(self, index: int) -> dict[str, Any]:
        """The first chat chunk of a choice."""
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self._chunk(
            choices=[choice], prompt_token_ids=self.prompt_ids if self.with_ids else None, prompt_text=None
        )

    def chat(self, index: int, delta: Delta) -> dict[str, Any] | None:
        """A chat chunk; None where the engine sends none (nothing to say, no ids asked for)."""
        said: dict[str, Any] = {}
        if delta.content:
            said["content"] = delta.content
        if delta.reasoning:
            said["reasoning"] = delta.reasoning
        if delta.calls:
            said = {"content": said.get("content"), "tool_calls": delta.calls}
        if not said and delta.finish_reason is None and not self.with_ids:
            return None
        choice = {"index": index, "delta": said, "logprobs": None, "finish_reason": delta.finish_reason}
        if delta.finish_reason is not None:
            choice["stop_reason"] = delta.stop_reason
        return self._last(self._chunk(choices=[choice | {"token_ids": self._ids(delta.ids)}]), delta)

    def text(self, index: int, delta: Delta, *, is_first: bool) -> dict[str, Any]:
        """A chunk of /v1/completions."""
        choice = {
            "index": index,
            "text": delta.text,
            "logprobs": None,
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
            "prompt_token_ids": self._ids(self.prompt_ids) if is_first else None,
            "token_ids": self._ids(delta.ids),
        }
        return self._last(self._chunk(choices=[choice]), delta)

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        return self._chunk(choices=[], usage=usage, system_fingerprint=FINGERPRINT)

    def usage(self, num_generated: int, num_reasoning: int) -> dict[str, Any]:
        num_prompt = len(self.prompt_ids)
        counts: dict[str, Any] = {
            "prompt_tokens": num_prompt,
            "total_tokens": num_prompt + num_generated,
            "completion_tokens": num_generated,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        if self.kind == "chat":
            counts["completion_tokens_details"] = {"reasoning_tokens": num_reasoning}
        return counts

    def chat_body(self, choices: Sequence[Sequence[Delta]], usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [self._whole(i, deltas) for i, deltas in enumerate(choices)],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage,
            "prompt_logprobs": None,
            "prompt_token_ids": self.prompt_ids if self.with_ids else None,
            "prompt_text": None,
            "kv_transfer_params": None,
        }

    def text_body(self, choices: Sequence[Sequence[Delta]], usage: dict[str, Any]) -> dict[str, Any]:
        whole = [
            {
                "index": i,
                "text": "".join(d.text for d in deltas),
                "logprobs": None,
                "finish_reason": deltas[-1].finish_reason,
                "stop_reason": deltas[-1].stop_reason,
                "token_ids": self._ids([id for d in deltas for id in d.ids]),
                "prompt_logprobs": None,
                "prompt_token_ids": self._ids(self.prompt_ids),
            }
            for i, deltas in enumerate(choices)
        ]
        return self._chunk(
            choices=whole, service_tier=None, system_fingerprint=FINGERPRINT, usage=usage, kv_transfer_params=None
        )

    def _whole(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(d.content for d in deltas) or None,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        if calls := [call for d in deltas for call in d.calls]:
            message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in calls]
        message["reasoning"] = "".join(d.reasoning for d in deltas) or None
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": deltas[-1].finish_reason,
            "stop_reason": deltas[-1].stop_reason,
            "token_ids": self._ids([id for d in deltas for id in d.ids]),
            "routed_experts": None,
        }

    def _ids(self, ids: list[int]) -> list[int] | None:
        return ids if self.with_ids else None

    @staticmethod
    def _last(chunk: dict[str, Any], delta: Delta) -> dict[str, Any]:
        if delta.finish_reason is not None:
            chunk["system_fingerprint"] = FINGERPRINT
        return chunk

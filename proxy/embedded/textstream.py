"""From token ids to text: incremental decoding, stop strings, and the split into reasoning, answer and tool calls.

Think and tool markers are told by their token ids, so text that merely looks like a marker stays text. A token whose
bytes end inside a character gives no text until the character is whole.
"""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from proxy.embedded.protocol import FinishReason


@dataclass(slots=True)
class Delta:
    """What one token added. `text` is raw; `reasoning`, `content` and `calls` are set in chat alone."""

    ids: list[int]
    text: str = ""
    reasoning: str = ""
    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | None = None


class TextStream:
    """Decodes one sequence; text that may be the beginning of a stop string is held back."""

    def __init__(self, tokenizer: Tokenizer, *, stop: tuple[str, ...], skip_special_tokens: bool) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._decoder = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._held = ""
        self._longest = max(map(len, stop), default=0)

    def push(self, id: int, finish_reason: Literal["stop", "length"] | None) -> Delta:
        """The next token; after a delta with `finish_reason` nothing may follow."""
        # The end-of-turn token is part of the ids and never of the text.
        text = "" if finish_reason == "stop" else self._decoder.step(self._tokenizer, id) or ""
        delta = Delta([id], finish_reason=finish_reason)
        self._held += text
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            at, delta.stop_reason = min(found)
            delta.text, self._held, delta.finish_reason = self._held[:at], "", "stop"
        elif finish_reason is not None:
            delta.text, self._held = self._held, ""
        else:
            keep = self._num_open()
            delta.text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return delta

    def _num_open(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0


class ChatSplitter:
    """Sorts a chat completion's text into reasoning, content and tool calls."""

    def __init__(self, tokenizer: Tokenizer, *, is_thinking: bool, has_tools: bool) -> None:
        self._channel: Literal["reasoning", "content", "call"] = "reasoning" if is_thinking else "content"
        self._think_end, self._call_start, self._call_end = (
            tokenizer.token_to_id(marker) for marker in ("</think>", "<tool_call>", "</tool_call>")
        )
        self._has_tools = has_tools
        self._call = ""
        self._num_calls = 0
        self._blank = ""  # white space before a call, dropped when the call comes
        self.num_reasoning = 0

    def sort(self, delta: Delta) -> Delta:
        """Fill the delta's channels. Held-back text of stop strings counts for the token that releases it."""
        id = delta.ids[-1]
        text = delta.text
        if self._channel == "reasoning" and id != self._think_end:
            self.num_reasoning += 1
        if id == self._think_end:
            if self._channel == "reasoning":
                delta.reasoning = text.removesuffix("</think>")
                self._channel = "content"
        elif self._channel == "reasoning":
            delta.reasoning = text
        elif self._has_tools and id == self._call_start and self._channel == "content":
            self._channel, self._blank, self._call = "call", "", ""
        elif self._channel == "call":
            self._in_call(id, text, delta)
        else:
            self._in_content(text, delta)
        if delta.finish_reason is not None:
            self._finish(delta)
        return delta

    def _in_call(self, id: int, text: str, delta: Delta) -> None:
        if id != self._call_end:
            self._call += text
            return
        self._channel = "content"
        self._emit_call(delta)

    def _emit_call(self, delta: Delta) -> None:
        call = _parse_call(self._call)
        if call is None:  # no valid markup: shown as the text it is, as the engine does
            delta.content += f"<tool_call>{self._call}</tool_call>"
            return
        name, arguments = call
        head = {
            "id": f"chatcmpl-tool-{uuid.uuid4().hex[:16]}",
            "type": "function",
            "index": self._num_calls,
            "function": {"name": name, "arguments": arguments},
        }
        delta.calls.append(head)
        self._num_calls += 1

    def _in_content(self, text: str, delta: Delta) -> None:
        if self._has_tools and not text.strip():
            self._blank += text
            return
        delta.content, self._blank = self._blank + text, ""

    def _finish(self, delta: Delta) -> None:
        if self._channel == "call":
            self._emit_call(delta)
        if self._num_calls and delta.finish_reason == "stop":
            delta.finish_reason = "tool_calls"


def _parse_call(markup: str) -> tuple[str, str] | None:
    """(name, arguments as JSON text) of Hermes markup."""
    try:
        call = json.loads(markup)
        return str(call["name"]), json.dumps(call["arguments"], ensure_ascii=False)
    except (ValueError, KeyError, TypeError):
        return None

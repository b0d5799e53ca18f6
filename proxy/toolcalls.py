"""Tool-call markup in the answer of a raw leg: parsed where it is the Hermes form, withheld where it is another.

Raw endpoints emit markup as text; a client must never see it. From the first marker on the answer is withheld; at the
end it becomes `tool_calls`, or, if it can't be parsed, the stream ends with `finish_reason: "content_filter"`.
"""

import json
import re
import uuid
from typing import Any

from proxy.fields import call_text
from proxy.frames import Delta
from proxy.think import Piece

# Openers of the tool-call formats that vLLM's own parsers know; only the first is parsed.
_OPENERS = (
    "<tool_call>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "<function=",
    "<｜tool▁calls▁begin｜>",
    "<|tool_calls_section",
)
_HERMES = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|\Z)", re.DOTALL)
# A tool call longer than this is withheld rather than buffered further.
_MAX_MARKUP_CHARS = 1 << 20


class ToolCallReader:
    """Filters the pieces of one raw leg."""

    def __init__(self) -> None:
        self._held = ""
        self._markup: str | None = None

    def filter(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces without markup; text that may begin a marker is held back."""
        kept: list[Piece] = []
        for piece in pieces:
            if piece.channel == "reasoning" or piece.marker:
                kept.append(piece)
            elif text := self._take(piece.text):
                kept.append(Piece("answer", text))
        return kept

    def finish(self, delta: Delta) -> None:
        """The leg is over: add what was held back, or the parsed calls, to its last delta."""
        if self._markup is None:
            if self._held:
                delta.pieces.append(Piece("answer", self._held))
            return
        calls = _parse(self._markup)
        if calls:
            delta.pieces.append(Piece("answer", call_text(calls), is_call=True))
        delta.finish_reason = "tool_calls" if calls else "content_filter"
        delta.tool_calls = calls or None

    def _take(self, text: str) -> str:
        if self._markup is not None:
            if len(self._markup) < _MAX_MARKUP_CHARS:
                self._markup += text
            return ""
        self._held += text
        found = [at for opener in _OPENERS if (at := self._held.find(opener)) >= 0]
        if found:
            at = min(found)
            shown, self._markup, self._held = self._held[:at], self._held[at:], ""
            return shown
        hold = max(
            (n for opener in _OPENERS for n in range(1, len(opener)) if self._held.endswith(opener[:n])),
            default=0,
        )
        shown, self._held = self._held[: len(self._held) - hold], self._held[len(self._held) - hold :]
        return shown


def _parse(markup: str) -> list[dict[str, Any]]:
    """Calls in OpenAI form; empty when anything in the markup is not a well-formed call."""
    calls: list[dict[str, Any]] = []
    for match in _HERMES.finditer(markup):
        try:
            call = json.loads(match[1])
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, KeyError, TypeError):
            return []
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return []
        function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        calls.append({"index": len(calls), "id": f"call-{uuid.uuid4().hex}", "type": "function", "function": function})
    rest = _HERMES.sub("", markup).replace("</tool_call>", "").strip()
    return [] if rest else calls

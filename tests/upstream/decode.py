"""From a scripted text to the tokens and frames that an engine would send, one choice at a time."""

import json
from collections.abc import Iterator
from typing import Any

from tests.upstream.frames import Piece
from tests.upstream.script import Generation, Script
from tests.upstream.tokens import THINK_END, THINK_START, TURN_END, Detokenizer, encode, marker_id


class _Parser:
    """Reasoning and tool parser of the chat endpoint, fed token by token."""

    def __init__(self, generation: Generation) -> None:
        self._is_thinking = generation.is_thinking
        self._markup: str | None = None
        self._num_calls = 0
        self.num_reasoning = 0

    def push(self, id: int, text: str, piece: Piece) -> None:
        piece.text += text
        if id in (marker_id(THINK_START), marker_id(THINK_END)):
            self._is_thinking = id == marker_id(THINK_START)
        elif self._is_thinking:
            self.num_reasoning += 1
            piece.reasoning += text
        elif id == marker_id("<tool_call>"):
            self._markup = ""
        elif id == marker_id("</tool_call>") and self._markup is not None:
            self._close_call(piece)
        elif self._markup is not None:
            self._markup += text
        else:
            piece.content += text

    def _close_call(self, piece: Piece) -> None:
        call = json.loads(self._markup or "{}")
        index, self._num_calls, self._markup = self._num_calls, self._num_calls + 1, None
        function = {"name": call["name"]}
        piece.calls.append({"id": f"chatcmpl-tool-{index}", "type": "function", "index": index, "function": function})
        piece.calls.append({"index": index, "function": {"arguments": json.dumps(call["arguments"])}})

    @property
    def has_called(self) -> bool:
        return self._num_calls > 0


def pieces(script: Script, generation: Generation) -> Iterator[tuple[Piece, int]]:
    """Frames of one choice, each with the number of reasoning tokens so far. The last has a finish reason."""
    ids = encode(script.text(generation))
    body: dict[str, Any] = generation.body.get("sampling_params") or generation.body
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    room = (script.max_model_len or 1 << 30) - len(generation.prompt_ids)
    limit = room if limit is None else min(int(limit), room)
    ends_itself = len(ids) < limit
    ids = [*ids, marker_id(TURN_END)] if ends_itself else ids[:limit]
    parser, detokenizer = _Parser(generation), Detokenizer()
    start = number = 0
    while start < len(ids):
        size = script.frame_size(number)
        part = ids[start : start + size]
        piece = Piece(list(part))
        for id in part:
            if id == marker_id(TURN_END):
                continue
            parser.push(id, detokenizer.push(id), piece)
        start, number = start + size, number + 1
        if start >= len(ids):
            stopped = "tool_calls" if parser.has_called and generation.path == "chat" else "stop"
            piece.finish_reason = stopped if ends_itself else "length"
        yield piece, parser.num_reasoning

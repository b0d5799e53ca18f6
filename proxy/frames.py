"""Stream events of the two upstream wire formats, read and written; `proxy.fields` checks the values inside them.

Rules kept here: a chat chunk is forwarded byte for byte, except that fields which only the proxy asked for (token ids)
are put back to what the upstream sends unasked. That is done on the bytes: an unescaped `"token_ids":` can only be an
object key (inside a JSON string its quotes are escaped), so a byte pattern finds exactly the keys.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.cut import LegEvent
from proxy.errors import UpstreamError
from proxy.fields import (
    call_text,
    chat_entries,
    chat_logprobs,
    check_index,
    drop_unread,
    finish_reason_of,
    ids_of,
    load,
    num_bytes,
    only_choice,
    reasoning_of,
    text_of,
    usage_of,
)
from proxy.think import Piece, ThinkMarkers, ThinkSplitter
from steer.events import Channel

_ID_FIELD = re.compile(rb'(?<!\\)"(prompt_token_ids|token_ids)"\s*:\s*(?:\[[\d,\s]*\]|null)')
_ID_MEMBER = re.compile(
    rb'(?:,\s*)(?<!\\)"(?:prompt_token_ids|token_ids)"\s*:\s*(?:\[[\d,\s]*\]|null)'
    rb'|(?<!\\)"(?:prompt_token_ids|token_ids)"\s*:\s*(?:\[[\d,\s]*\]|null)\s*,?'
)


def excise_token_ids(payload: bytes, *, as_null: bool) -> bytes:
    """The payload as it would be had nobody asked for token ids.

    Upstreams differ: some send the keys as null unasked (`as_null`), some leave them out.
    """
    if as_null:
        return _ID_FIELD.sub(rb'"\1":null', payload)
    return _ID_MEMBER.sub(b"", payload)


_CHOICE_HEAD = re.compile(
    rb'\A\{"id":"[^"\\]*"(?P<a>,"object":"[^"\\]*","created":)\d+(?P<b>,"model":"(?:[^"\\]|\\.)*","choices":\[\{"index":)0'
)


class Relabel:
    """Makes n single completions look like the one with n choices that was asked for: one id, one time, own indices.

    The first chunk of any choice gives the id and time of all. One instance a request.
    """

    def __init__(self) -> None:
        self._id: str | None = None
        self._created = 0

    def chunk(self, payload: bytes, index: int) -> bytes:
        """The payload as choice `index` of the shared completion."""
        if self._id is None:
            head = load(payload)
            created = head.get("created")
            self._id, self._created = str(head.get("id")), created if type(created) is int else 0
        shared = json.dumps(self._id).encode()
        new, count = _CHOICE_HEAD.subn(
            lambda m: b'{"id":%b%b%d%b%d' % (shared, m["a"], self._created, m["b"], index), payload, count=1
        )
        if count:
            return new
        chunk = load(payload)  # another order of keys: the values are what counts
        chunk |= {"id": self._id, "created": self._created}
        if (choice := only_choice(chunk)) is not None:
            check_index(choice)
            choice["index"] = index
        return json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


@dataclass(slots=True)
class Delta:
    """One upstream event, as far as a choice is concerned."""

    payload: bytes | None  # to show as received; None: nothing to forward
    pieces: list[Piece] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: list[dict[str, Any]] | None = None
    is_usage: bool = False
    usage: dict[str, Any] | None = None
    num_held: int = 0  # characters of this event that may yet turn out to be a marker
    leg_event: LegEvent | None = None  # what the leg's tokens grow by, where it is not just this text and these ids
    is_slice: bool = False  # text that an earlier `leg_event` has already accounted for
    tool_calls: list[dict[str, Any]] | None = None  # parsed from markup of a raw leg

    @property
    def text(self) -> str:
        """All text of the event, markers left out."""
        return "".join(piece.text for piece in self.pieces)


class ChatReader:
    """Reads `chat.completion.chunk` events of one choice, whatever way the upstream marks reasoning.

    `delta.reasoning` and `delta.reasoning_content` are reasoning; where neither has been seen, thinking may stand
    inline in the content: opened by a marker, or by the prompt itself (`is_open` tells from the prompt's ids).
    """

    def __init__(
        self,
        markers: ThinkMarkers,
        *,
        ids_as_null: bool,
        keep_ids: bool,
        is_open: Callable[[list[int]], bool],
        starts_in_reasoning: bool = False,
        relabel: Callable[[bytes], bytes] | None = None,
        withholds_unread: bool = True,
    ) -> None:
        """`withholds_unread`: fields that might hold text which is not read here are taken out of what is forwarded."""
        self._relabel = relabel
        self._withholds_unread = withholds_unread
        self._markers = markers
        self._ids_as_null = ids_as_null
        self._keep_ids = keep_ids
        self._is_open = is_open
        self._inline: ThinkSplitter | None = ThinkSplitter(markers, "reasoning" if starts_in_reasoning else "start")
        self._first: dict[str, Any] | None = None
        self._named_field: str | None = None

    @property
    def reasoning_field(self) -> str | None:
        """The delta field that carries reasoning; None where it stands inline in the content."""
        if self._named_field is None and self._inline is not None and self._inline.has_reasoning:
            return None
        return self._named_field or "reasoning"

    @property
    def head(self) -> dict[str, Any]:
        """The first chunk, empty before it has come."""
        return self._first or {}

    def read(self, payload: bytes) -> Delta:
        """Raises UpstreamError for anything that is not a chunk."""
        if self._relabel is not None:
            payload = self._relabel(payload)
        chunk = load(payload)
        if self._first is None:
            self._first = chunk
        shown = payload if self._keep_ids else excise_token_ids(payload, as_null=self._ids_as_null)
        delta = Delta(shown)
        if chunk.get("prompt_token_ids") is not None:
            delta.prompt_token_ids = ids_of(chunk["prompt_token_ids"])
            if self._inline is not None and self._is_open(delta.prompt_token_ids):
                self._inline = ThinkSplitter(self._markers, "reasoning")
        choice = only_choice(chunk)
        if choice is None:
            delta.is_usage, delta.usage = True, usage_of(chunk.get("usage"))
            return delta
        if self._relabel is None:
            check_index(choice)
        if not isinstance(choice.get("delta"), dict):
            raise UpstreamError("the upstream sent a chunk without a delta")
        if self._withholds_unread and drop_unread(choice, "delta"):
            rewritten = json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            delta.payload = rewritten if self._keep_ids else excise_token_ids(rewritten, as_null=self._ids_as_null)
        self._read_choice(choice, delta)
        return delta

    def flush(self) -> list[Piece]:
        """Pieces held back at the end of the stream."""
        return self._inline.flush() if self._inline else []

    def _read_choice(self, choice: dict[str, Any], delta: Delta) -> None:
        message = choice["delta"]
        delta.token_ids = ids_of(choice.get("token_ids"))
        delta.finish_reason = finish_reason_of(choice)
        delta.stop_reason = choice.get("stop_reason")
        delta.logprobs = chat_entries(choice.get("logprobs"))
        name, reasoning = reasoning_of(message)
        if name is not None:
            self._named_field, self._inline = name, None
            delta.pieces.append(Piece("reasoning", reasoning))
        if content := text_of(message.get("content")):
            delta.pieces += self._inline.push(content) if self._inline else [Piece("answer", content)]
        if message.get("tool_calls"):
            delta.pieces.append(Piece("answer", call_text(message["tool_calls"]), is_call=True))
        if delta.finish_reason is not None:
            delta.pieces += self.flush()
        delta.num_held = (self._inline.num_held if self._inline else 0) or self._num_ahead(delta, reasoning + content)
        if not self._keep_ids and not message and delta.finish_reason is None and choice.get("logprobs") is None:
            delta.payload = None  # sent only because token ids were asked for

    def _num_ahead(self, delta: Delta, text: str) -> int:
        """1 where ids or log-probabilities tell of text that a later frame brings: the frame then waits for it."""
        if delta.logprobs is not None:
            return int(num_bytes(delta.logprobs) > len(text.encode()))
        return int(self._keep_ids and bool(delta.token_ids) and not text)


class RawReader:
    """Reads events of `/v1/completions` and `/inference/v1/generate`: text with markers in it, and token ids."""

    def __init__(self, markers: ThinkMarkers, channel: Channel) -> None:
        self._splitter = ThinkSplitter(markers, channel)

    def read(self, payload: bytes) -> Delta:
        """Raises UpstreamError for anything that is not a chunk."""
        chunk = load(payload)
        delta = Delta(None)
        choice = only_choice(chunk)
        if choice is None:
            delta.is_usage = True
            return delta
        delta.token_ids = ids_of(choice.get("token_ids"))
        delta.finish_reason = finish_reason_of(choice)
        delta.stop_reason = choice.get("stop_reason")
        delta.pieces = self._splitter.push(text_of(choice.get("text")))
        delta.logprobs = chat_logprobs(choice.get("logprobs"))
        if delta.finish_reason is not None:
            delta.pieces += self._splitter.flush()
        delta.num_held = self._splitter.num_held
        return delta

    def flush(self) -> list[Piece]:
        """Pieces held back at the end of the stream."""
        return self._splitter.flush()


class ChunkWriter:
    """Writes chat chunks that continue a stream begun by the upstream: same id, model, fields and order."""

    def __init__(
        self,
        head: dict[str, Any],
        index: int,
        reasoning_field: str | None,
        *,
        with_ids: bool,
    ) -> None:
        self._id = head.get("id") or "chatcmpl-steer"
        self._created = head.get("created") or 0
        self._model = head.get("model") or ""
        self._index = index
        self._reasoning_field = reasoning_field
        self._with_ids = with_ids

    def text(
        self,
        channel: Channel,
        text: str,
        *,
        token_ids: list[int] | None = None,
        logprobs: list[dict[str, Any]] | None = None,
        extension: dict[str, Any] | None = None,
    ) -> bytes:
        """A chunk with text in one channel; `extension` becomes the chunk's `steer` field."""
        name = self._reasoning_field if channel == "reasoning" else "content"
        return self.delta({name or "content": text}, token_ids=token_ids, logprobs=logprobs, extension=extension)

    def delta(
        self,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        stop_reason: int | str | None = None,
        token_ids: list[int] | None = None,
        logprobs: list[dict[str, Any]] | None = None,
        extension: dict[str, Any] | None = None,
    ) -> bytes:
        """A chunk with any delta, and a finish reason where given."""
        choice: dict[str, Any] = {
            "index": self._index,
            "delta": delta,
            "logprobs": None if logprobs is None else {"content": logprobs},
            "finish_reason": finish_reason,
        }
        if finish_reason is not None:
            choice["stop_reason"] = stop_reason
        choice["token_ids"] = (token_ids or []) if self._with_ids else None
        return self._dump({"choices": [choice]}, extension)

    def marker(self, marker: str) -> bytes | None:
        """A chunk with a think marker, for streams that show them; None for those that name the channel."""
        return self.delta({"content": marker}) if self._reasoning_field is None else None

    def usage(self, usage: dict[str, Any], extension: dict[str, Any] | None = None) -> bytes:
        """The trailing chunk of `stream_options.include_usage`."""
        return self._dump({"choices": [], "usage": usage}, extension)

    def _dump(self, rest: dict[str, Any], extension: dict[str, Any] | None) -> bytes:
        chunk = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            **rest,
        }
        if extension is not None:
            chunk["steer"] = extension
        return json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

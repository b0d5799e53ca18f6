"""The legs of one stream: where deltas come from. A leg is opened, iterated for batches of deltas, and closed at once.

ChatLeg      the request itself, streamed by the engine's chat endpoint, frames kept as received
BodyLeg      the request itself, not streamed: the finished body as if it had come in pieces
RawLeg       a resume by token ids on a raw endpoint
ContinuedLeg a resume by continuing the chat message, for engines without token ids
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.cut import LegEvent
from proxy.errors import UpstreamError
from proxy.fields import call_text, drop_unread, finish_reason_of, ids_of, only_choice, reasoning_of, text_of, usage_of
from proxy.frames import ChatReader, Delta, RawReader, excise_token_ids
from proxy.think import Piece, ThinkMarkers, ThinkSplitter
from proxy.toolcalls import ToolCallReader
from proxy.upstream import UpstreamClient, UpstreamStream
from steer.events import Channel

# A finished body is fed to the engine in slices about as long as a sentence, so that the detector's queue stays
# bounded.
_SLICE_CHARS = 256


class Leg(Protocol):
    """What the session needs of a leg."""

    async def open(self) -> None:
        """Send the request. Raises UpstreamStatusError, UpstreamError."""

    def batches(self) -> AsyncIterator[list[Delta]]:
        """Deltas as they arrive; ends with the engine's own end. Raises UpstreamError."""

    def close(self) -> None:
        """Abort: close the connection now."""


@dataclass(slots=True)
class Target:
    """Where a leg's request goes."""

    client: UpstreamClient
    path: str
    body: dict[str, Any]
    headers: Mapping[str, str]


class _StreamLeg:
    """Common to the streamed legs: owning the stream."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stream: UpstreamStream | None = None
        self._is_closed = False

    async def open(self) -> None:
        target = self._target
        self._stream = await target.client.stream(target.path, target.body, target.headers)
        if self._is_closed:
            self._stream.close()

    def close(self) -> None:
        self._is_closed = True
        if self._stream is not None:
            self._stream.close()

    async def _payloads(self) -> AsyncIterator[list[bytes]]:
        assert self._stream is not None, "iterated before open"
        async with self._stream as stream:
            async for payloads in stream:
                yield payloads


class ChatLeg(_StreamLeg):
    """First leg, streamed."""

    def __init__(self, target: Target, reader: ChatReader) -> None:
        super().__init__(target)
        self.reader = reader

    async def batches(self) -> AsyncIterator[list[Delta]]:
        """Deltas whose `payload` is the frame as the engine sent it."""
        has_finished = False
        async for payloads in self._payloads():
            deltas = [self.reader.read(payload) for payload in payloads]
            has_finished = has_finished or any(delta.finish_reason is not None for delta in deltas)
            yield deltas
        if not has_finished:
            raise UpstreamError("the upstream ended the stream before the completion was finished")


class RawLeg(_StreamLeg):
    """Resumed leg on a raw endpoint; tool-call markup in the answer is parsed or withheld."""

    def __init__(self, target: Target, markers: ThinkMarkers, channel: Channel, tools: ToolCallReader | None) -> None:
        super().__init__(target)
        self._reader = RawReader(markers, channel)
        self._tools = tools

    async def batches(self) -> AsyncIterator[list[Delta]]:
        """Deltas without `payload`: the session writes the frames."""
        has_finished = False
        async for payloads in self._payloads():
            deltas = [self._reader.read(payload) for payload in payloads]
            has_finished = has_finished or any(delta.finish_reason is not None for delta in deltas)
            yield [self._without_markup(delta) for delta in deltas]
        if not has_finished:
            raise UpstreamError("the upstream ended the resumed stream before it was finished")

    def _without_markup(self, delta: Delta) -> Delta:
        if self._tools is not None:
            delta.leg_event = LegEvent(delta.text, delta.token_ids)
            delta.pieces = self._tools.filter(delta.pieces)
            if delta.finish_reason is not None:
                self._tools.finish(delta)
        return delta


class ContinuedLeg(_StreamLeg):
    """Resumed leg by chat continuation. Whatever comes is reasoning until a closing marker or a change of field."""

    def __init__(self, target: Target, reader: ChatReader) -> None:
        super().__init__(target)
        self._reader = reader

    async def batches(self) -> AsyncIterator[list[Delta]]:
        """Deltas without `payload`: ids and roles of the new completion are not the client's business."""
        has_finished = False
        async for payloads in self._payloads():
            deltas = [self._reader.read(payload) for payload in payloads]
            has_finished = has_finished or any(delta.finish_reason is not None for delta in deltas)
            for delta in deltas:
                delta.payload = None
            yield deltas
        if not has_finished:
            raise UpstreamError("the upstream ended the continued stream before it was finished")


class BodyLeg:
    """First leg, not streamed. `raw` is the body to give the client when nothing happens."""

    def __init__(
        self,
        target: Target,
        splitter: Callable[[list[int]], ThinkSplitter],
        *,
        ids_as_null: bool,
        keep_ids: bool,
        withholds_unread: bool = True,
    ) -> None:
        """`splitter` makes one for a prompt's ids, for thinking that stands inline in the content."""
        self._target = target
        self._withholds_unread = withholds_unread
        self._splitter = splitter
        self._ids_as_null = ids_as_null
        self._keep_ids = keep_ids
        self._body: dict[str, Any] = {}
        self.raw = b""
        self.reasoning_field: str | None = "reasoning"

    async def open(self) -> None:
        """Waits for the whole completion."""
        target = self._target
        raw = await target.client.post(target.path, target.body, target.headers)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise UpstreamError("the upstream's completion is not JSON") from error
        choice = only_choice(body) if isinstance(body, dict) else None
        if choice is None or not isinstance(choice.get("message"), dict):
            raise UpstreamError("the upstream's completion is not an OpenAI chat completion")
        if self._withholds_unread and drop_unread(choice, "message"):
            raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        self._body, self._choice, self._message = body, choice, choice["message"]
        self._ids, self._finish_reason = ids_of(choice.get("token_ids")), finish_reason_of(choice)
        self.raw = raw if self._keep_ids else excise_token_ids(raw, as_null=self._ids_as_null)
        self._pieces = self._read_pieces()

    @property
    def head(self) -> dict[str, Any]:
        """The body."""
        return self._body

    async def batches(self) -> AsyncIterator[list[Delta]]:
        """The message in slices; the first carries all ids."""
        ids = self._ids
        text = "".join(piece.text for piece in self._pieces)
        yield [Delta(None, token_ids=ids, prompt_token_ids=self._prompt_ids, leg_event=LegEvent(text, ids))]
        for piece in self._pieces:
            if piece.marker:
                yield [Delta(None, [piece], is_slice=True)]
            for at in range(0, len(piece.text), _SLICE_CHARS):
                part = piece._replace(text=piece.text[at : at + _SLICE_CHARS])
                yield [Delta(None, [part], is_slice=True)]
        yield [Delta(None, is_slice=True, is_usage=True, usage=usage_of(self._body.get("usage")))]
        yield [Delta(None, is_slice=True, finish_reason=self._finish_reason or "stop")]

    def close(self) -> None:
        """The engine has finished already; nothing is left to abort."""

    @property
    def _prompt_ids(self) -> list[int] | None:
        ids = self._body.get("prompt_token_ids")
        return None if ids is None else ids_of(ids)

    def _read_pieces(self) -> list[Piece]:
        answer = text_of(self._message.get("content"))
        calls = [Piece("answer", call_text(self._message.get("tool_calls")), is_call=True)]
        name, reasoning = reasoning_of(self._message)
        if name is not None:
            self.reasoning_field = name
            return [Piece("reasoning", reasoning), Piece("answer", answer), *calls]
        splitter = self._splitter(self._prompt_ids or [])
        pieces = splitter.push(answer) + splitter.flush()
        if splitter.has_reasoning:
            self.reasoning_field = None
        return pieces + calls

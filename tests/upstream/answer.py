"""One answer in the making: the scripted tokens of all its choices, as a stream of events or as a whole body."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import anyio

from tests.upstream.decode import pieces
from tests.upstream.frames import Piece, Shape
from tests.upstream.script import Fault, Generation
from tests.upstream.wire import Connection, Gone, dump


class Answer:
    """What one generation sends. `num_sent`: its tokens so far; `count` is told of each as it is made."""

    def __init__(self, shape: Shape, count: Callable[[int], None]) -> None:
        self._shape = shape
        self._count = count
        self._reasoning: dict[int, int] = {}
        self.num_sent = 0

    def _choices(self) -> list[Generation]:
        seed = self._shape.generation.seed
        return [
            replace(self._shape.generation, choice=choice, seed=None if seed is None else seed + choice)
            for choice in range(int(self._shape.generation.body.get("n") or 1))
        ]

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Frames of all choices in turn, at the script's pace; counts their tokens."""
        open_choices = {item.choice: pieces(self._shape.script, item) for item in self._choices()}
        wait_ms = self._shape.script.first_delay_ms or self._shape.script.delay_ms
        while open_choices:
            if wait_ms:
                await anyio.sleep(wait_ms / 1000)
            wait_ms = self._shape.script.delay_ms
            for choice in list(open_choices):
                if (made := next(open_choices[choice], None)) is None:
                    del open_choices[choice]
                    continue
                piece, self._reasoning[choice] = made
                self.num_sent += len(piece.ids)
                self._count(len(piece.ids))
                yield choice, piece

    async def payloads(self) -> AsyncIterator[bytes]:
        body = self._shape.generation.body
        options = body.get("stream_options") or {}
        has_usage, is_running = bool(options.get("include_usage")), bool(options.get("continuous_usage_stats"))
        is_alone = int(body.get("n") or 1) == 1 and not has_usage
        is_generate, is_chat = self._shape.generation.path == "generate", self._shape.generation.path == "chat"

        def finished(chunk: dict[str, Any]) -> bytes:
            if has_usage and is_running and is_chat:
                chunk["usage"] = self._shape.usage(self.num_sent, sum(self._reasoning.values()), detailed=False)
            return dump(chunk)

        for choice in range(int(body.get("n") or 1)) if is_chat else ():
            yield finished(self._shape.role(choice))
        is_first = True
        async for choice, piece in self._pieces():
            if is_generate:
                yield dump(self._shape.generate(piece))
            elif not is_chat:
                yield dump(self._shape.raw(piece, is_first=is_first))
            elif (chunk := self._shape.delta(choice, piece, is_last_alone=is_alone)) is not None:
                yield finished(chunk)
            is_first = False
        if has_usage:
            usage = self._shape.usage(self.num_sent, sum(self._reasoning.values()), detailed=True)
            yield dump(self._shape.usage_chunk(usage))

    async def write_whole(self, connection: Connection, fault: Fault | None) -> None:
        choices: list[list[Piece]] = [[] for _ in self._choices()]
        async for choice, piece in self._pieces():
            choices[choice].append(piece)
        usage = self._shape.usage(self.num_sent, sum(self._reasoning.values()), detailed=True)
        made = (
            self._shape.body(choices, usage)
            if self._shape.generation.path == "chat"
            else self._shape.raw_body(choices[0], usage)
        )
        data = dump(made)
        if fault is None or fault.action is None:
            await connection.answer(200, data, (fault and fault.content_type) or "application/json")
        elif fault.action in ("not_json", "garbage"):
            await connection.answer(200, b"this is no JSON")
        elif fault.action == "stall":
            await anyio.sleep(fault.stall_s)
            await connection.answer(200, data)
        elif fault.action == "rst":
            await connection.reset()
            raise Gone
        else:
            await connection.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data) + data[: len(data) // 2]
            )
            raise Gone

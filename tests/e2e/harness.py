"""A real proxy on a real port, with a scripted scorer, in this event loop; and a client that keeps every byte.

`TableScorer` flags what contains the word CUE, so that tests say in their texts where a cut must fall.
"""

import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import uvicorn
from yarl import URL

from detector.context import Context, Message
from detector.errors import DetectorError
from proxy.app import create_app
from proxy.judge import Scorer
from proxy.log import LogReader
from proxy.server import bind
from proxy.settings import Settings
from steer.record import InterventionRecord
from tests.patience import PATIENCE_S
from tests.upstream import Generation, Script, ScriptedUpstream
from tests.upstream.wire import Connection, dump, stream_events

CUE = "CUE"


@dataclass
class TableScorer:
    """Scores by the segment's text; remembers what it was asked. A None from `judge` is a failing detector."""

    judge: Callable[[str], float | None] = lambda text: 0.9 if CUE in text else 0.1
    delay_s: float = 0.0
    seen: list[Context] = field(default_factory=list)

    async def prepare(self, messages: Sequence[Message]) -> float:
        return 0.0

    async def score(self, context: Context) -> float:
        self.seen.append(context)
        if self.delay_s:
            await anyio.sleep(self.delay_s)
        score = self.judge(context.segment)
        if score is None:
            raise DetectorError("scripted failure")
        return score


@dataclass
class Reply:
    """What a client got: status, headers, and the events or the body."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def events(self) -> list[bytes]:
        return [line[6:] for line in self.raw.split(b"\n") if line.startswith(b"data: ")]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(event) for event in self.events if event != b"[DONE]"]

    @property
    def is_complete(self) -> bool:
        return self.raw.endswith(b"data: [DONE]\n\n")

    @property
    def body(self) -> dict[str, Any]:
        parsed = json.loads(self.raw)
        assert isinstance(parsed, dict)
        return parsed

    def text(self, *fields: str, choice: int = 0) -> str:
        """The texts of these delta fields, in order of arrival."""
        deltas = [c["delta"] for chunk in self.chunks for c in chunk.get("choices", []) if c["index"] == choice]
        return "".join(delta[name] for delta in deltas for name in fields if delta.get(name))

    @property
    def reasoning(self) -> str:
        return self.text("reasoning", "reasoning_content")

    @property
    def content(self) -> str:
        return self.text("content")

    @property
    def finish_reasons(self) -> list[str]:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", [])]
        return [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None]

    @property
    def told(self) -> list[dict[str, Any]]:
        return [chunk["steer"] for chunk in self.chunks if "steer" in chunk]


def _narrow_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose system takes little unread: else a client that does not read would be served megabytes."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return made


async def _reply(response: aiohttp.ClientResponse) -> Reply:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status, headers, await response.read())


@dataclass
class LiveStream:
    """An event stream while it comes: one event at a time."""

    response: aiohttp.ClientResponse
    raw: bytes = b""

    async def event(self) -> bytes | None:
        """The next event's payload; None at the end of the body."""
        lines = []
        while line := await self.response.content.readline():
            self.raw += line
            if line == b"\n":
                break
            lines.append(line[6:].rstrip(b"\n"))
        return b"\n".join(lines) if lines else None

    async def until(self, text: str) -> bytes:
        """Reads on until an event holds `text`; that event."""
        while (payload := await self.event()) is not None:
            if text.encode() in payload:
                return payload
        raise AssertionError(f"the stream ended without {text!r}: …{self.raw[-300:]!r}")

    def close(self) -> None:
        """Leave, as a client that has been killed would."""
        self.response.close()


@dataclass
class RunningProxy:
    """A proxy that listens at `url`; `database` is its log's file."""

    url: str
    database: Path
    scorer: TableScorer

    async def chat(
        self, content: str = "Hello", *, model: str = "scripted", headers: dict[str, str] | None = None, **body: Any
    ) -> Reply:
        """One request; streams unless told otherwise."""
        sent = {"model": model, "messages": [{"role": "user", "content": content}], "stream": True} | body
        return await self.post("/v1/chat/completions", json=sent, headers=headers)

    async def post(self, path: str, **options: Any) -> Reply:
        async with aiohttp.ClientSession() as session, session.post(self.url + path, **options) as response:
            return Reply(
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                await response.read(),
            )

    @asynccontextmanager
    async def stream(
        self, content: str = "Hello", *, headers: dict[str, str] | None = None, **body: Any
    ) -> AsyncIterator[LiveStream]:
        """One streamed request, to be read event by event; what is not read is held back after a few kilobytes."""
        sent = {"model": "scripted", "messages": [{"role": "user", "content": content}], "stream": True} | body
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=_narrow_socket), read_bufsize=1024
            ) as session,
            session.post(self.url + "/v1/chat/completions", json=sent, headers=headers) as response,
        ):
            yield LiveStream(response)

    def outcomes(self) -> list[str]:
        """Outcomes on disk at this moment, oldest first; "!" marks one whose completion is written."""
        with closing(sqlite3.connect(self.database)) as connection:
            query = "select outcome, completed_us from interventions order by created_us, attempt"
            return [f"{outcome}!" if completed else outcome for outcome, completed in connection.execute(query)]

    async def records(self) -> list[InterventionRecord]:
        """All records, oldest first."""
        async with LogReader.open(f"sqlite:///{self.database}") as log:
            found = [record async for record in log.export()]
        return sorted(found, key=lambda record: (record.created_at, record.choice, record.attempt))

    async def settled(self, count: int) -> list[InterventionRecord]:
        """All records, once `count` of them are complete."""
        with anyio.fail_after(PATIENCE_S):
            while sum(outcome.endswith("!") for outcome in self.outcomes()) < count:  # noqa: ASYNC110 - no bell
                await anyio.sleep(0.02)
        return await self.records()

    async def request(self, method: str, path: str) -> Reply:
        """A request without a body; the path goes out as it is."""
        target = URL(self.url + path, encoded=True)
        async with aiohttp.ClientSession() as session, session.request(method, target) as response:
            return await _reply(response)

    async def get(self, path: str, **options: Any) -> Reply:
        async with aiohttp.ClientSession() as session, session.get(self.url + path, **options) as response:
            return Reply(
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                await response.read(),
            )


class OddUpstream(ScriptedUpstream):
    """A scripted upstream whose chat answers are written by hand: `frames` streamed, `body` not; probes are honest."""

    def __init__(self, *frames: Any, body: Any = None, script: Script | None = None) -> None:
        super().__init__(script)
        self.frames = [frame if isinstance(frame, bytes) else dump(frame) for frame in frames]
        self.body = body

    async def _generate(self, connection: Connection, generation: Generation) -> None:
        if generation.is_resume or generation.is_probe:
            await super()._generate(connection, generation)
            return
        self.generations.append(generation)
        if not generation.body.get("stream"):
            await connection.answer(200, self.body if isinstance(self.body, bytes) else dump(self.body))
            return

        async def payloads() -> AsyncIterator[bytes]:
            for frame in self.frames:
                yield frame

        await stream_events(connection, payloads(), self.script.framing, None)


def chunk(delta: Any = None, **choice: Any) -> dict[str, Any]:
    """A chat chunk with one choice."""
    head = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": None} | choice
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted", "choices": [head]}


OPENING = chunk({"role": "assistant", "content": ""}) | {"prompt_token_ids": [1, 2, 3]}
ENDING = chunk(finish_reason="stop")


def settings_for(upstream_url: str, folder: Path, **sections: dict[str, Any]) -> Settings:
    """Settings of a proxy in front of `upstream_url` that keeps its log in `folder`."""
    base: dict[str, dict[str, Any]] = {
        "upstream": {"url": upstream_url, "read_timeout_s": PATIENCE_S, "connect_timeout_s": PATIENCE_S},
        "log": {"url": f"sqlite:///{folder}/log.sqlite"},
        "policy": {"threshold": 0.5},
    }
    merged = {name: base.get(name, {}) | sections.get(name, {}) for name in {*base, *sections}}
    return Settings.model_validate(merged)


@asynccontextmanager
async def running_proxy(
    upstream_url: str, folder: Path, scorer: Scorer | None = None, **sections: dict[str, Any]
) -> AsyncIterator[RunningProxy]:
    """A proxy until the block ends; `sections` are settings by section, e.g. policy={"mode": "tap"}."""
    table = scorer or TableScorer()
    listener = bind("127.0.0.1", 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)  # see _narrow_socket
    app = create_app(settings_for(upstream_url, folder, **sections), table)
    config = uvicorn.Config(app, log_config=None, lifespan="on", access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    tasks = await anyio.create_task_group().__aenter__()
    tasks.start_soon(server._serve, [listener])
    try:
        with anyio.fail_after(PATIENCE_S):
            while not server.started:  # noqa: ASYNC110 - uvicorn rings no bell
                await anyio.sleep(0.01)
        port = listener.getsockname()[1]
        yield RunningProxy(f"http://127.0.0.1:{port}", folder / "log.sqlite", table)  # type: ignore[arg-type]
    finally:
        server.should_exit = True
        # The group is not told of the body's own error, which would come out wrapped in an exception group.
        await tasks.__aexit__(None, None, None)

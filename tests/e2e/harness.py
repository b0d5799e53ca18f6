"""A real proxy on a real port, with a scripted scorer, in this event loop; and a client that keeps every byte.

`TableScorer` flags what contains the word CUE, so that tests say in their texts where a cut must fall.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import uvicorn

from detector.context import Context
from detector.errors import DetectorError
from proxy.app import create_app
from proxy.server import bind
from proxy.session import Scorer
from proxy.settings import Settings

CUE = "CUE"


@dataclass
class TableScorer:
    """Scores by the segment's text; remembers what it was asked. A None from `judge` is a failing detector."""

    judge: Callable[[str], float | None] = lambda text: 0.9 if CUE in text else 0.1
    delay_s: float = 0.0
    seen: list[Context] = field(default_factory=list)

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


@dataclass
class RunningProxy:
    """A proxy that listens at `url`; `database` is its log's file."""

    url: str
    database: Path
    scorer: TableScorer

    async def chat(self, content: str = "Hello", *, model: str = "scripted", **body: Any) -> Reply:
        """One request; streams unless told otherwise."""
        sent = {"model": model, "messages": [{"role": "user", "content": content}], "stream": True} | body
        return await self.post("/v1/chat/completions", json=sent)

    async def post(self, path: str, **options: Any) -> Reply:
        async with aiohttp.ClientSession() as session, session.post(self.url + path, **options) as response:
            return Reply(
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                await response.read(),
            )

    async def get(self, path: str, **options: Any) -> Reply:
        async with aiohttp.ClientSession() as session, session.get(self.url + path, **options) as response:
            return Reply(
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                await response.read(),
            )


def settings_for(upstream_url: str, folder: Path, **sections: dict[str, Any]) -> Settings:
    """Settings of a proxy in front of `upstream_url` that keeps its log in `folder`."""
    base: dict[str, dict[str, Any]] = {
        "upstream": {"url": upstream_url, "read_timeout_s": 5.0, "connect_timeout_s": 2.0},
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
    app = create_app(settings_for(upstream_url, folder, **sections), table)
    config = uvicorn.Config(app, log_config=None, lifespan="on", access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server._serve, [listener])
        with anyio.fail_after(20):
            while not server.started:
                await anyio.sleep(0.01)
        port = listener.getsockname()[1]
        try:
            yield RunningProxy(f"http://127.0.0.1:{port}", folder / "log.sqlite", table)  # type: ignore[arg-type]
        finally:
            server.should_exit = True

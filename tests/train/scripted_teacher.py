"""A teacher on a real port: an OpenAI-compatible endpoint whose letters follow marks in the text.

A sentence with "(cue)" gets C, one with "(safe)" gets S, any other N; a request with "forbidden" is H. `faults` are
taken first, one a request: a status with headers, or the text to answer with. `bodies` holds every request that came.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass(frozen=True, slots=True)
class Fault:
    """A status that is no success."""

    status: int
    message: str = "no"
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None


@dataclass(slots=True)
class ScriptedTeacher:
    """`formats`: kinds of response_format that it knows; others are refused with 400. `answer` replaces its letters."""

    url: str = ""
    formats: tuple[str, ...] = ("json_schema", "json_object", "none")
    key: str | None = None
    delay_s: float = 0.0
    faults: list[Fault | str] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], str | Fault] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    num_open: int = 0
    most_open: int = 0

    async def complete(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.times.append(time.monotonic())
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        await anyio.sleep(self.delay_s)
        self.num_open -= 1
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return _refusal(Fault(401, "Incorrect API key provided"))
        kind = body.get("response_format", {}).get("type", "none")
        if kind not in self.formats:
            return _refusal(Fault(400, f"response_format {kind} is not supported"))
        said = self.faults.pop(0) if self.faults else self.answer(body) if self.answer else letters(body)
        return _refusal(said) if isinstance(said, Fault) else JSONResponse(_completion(said))


def shown(body: dict[str, Any]) -> dict[str, Any]:
    """What the teacher was shown to label: the last conversation in the request."""
    texts = [m["content"] for m in body["messages"] if m["role"] == "user" and m["content"].startswith("{")]
    value: dict[str, Any] = json.loads(texts[-1])
    return value


def letters(body: dict[str, Any]) -> str:
    """The scripted answer."""
    asked = shown(body)
    found = {n: "C" if "(cue)" in text else "S" if "(safe)" in text else "N" for n, text in asked["sentences"].items()}
    is_harmful = any("forbidden" in message["content"] for message in asked["conversation"])
    verdict = {} if "request_verdict" in asked else {"request": "H" if is_harmful else "B"}
    return json.dumps({**verdict, "labels": found})


@contextmanager
def serving(teacher: ScriptedTeacher) -> Iterator[ScriptedTeacher]:
    """The teacher on a free port, from a thread."""
    app = Starlette(routes=[Route("/v1/chat/completions", teacher.complete, methods=["POST"])])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    teacher.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    try:
        yield teacher
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def _refusal(fault: Fault) -> Response:
    error = {"message": fault.message, "type": "error", "code": fault.code}
    return JSONResponse({"error": error}, fault.status, headers=dict(fault.headers))


def _completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "teacher",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 1000,
            "completion_tokens": 10,
            "total_tokens": 1010,
            "prompt_tokens_details": {"cached_tokens": 600},
        },
    }

"""The scripted upstream: a real TCP server that speaks the subset of vLLM that the proxy uses, and remembers all.

`async with ScriptedUpstream(script) as up:` listens on a free port; `up.url`, `up.requests`, `up.generations`,
`up.aborts` and `up.num_tokens` tell what happened. `running(script)` is the same from a thread, for tests that block.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup, TaskStatus
from anyio.from_thread import start_blocking_portal

from tests.patience import PATIENCE_S
from tests.upstream.answer import Answer
from tests.upstream.frames import Shape
from tests.upstream.script import Generation, Path, Script, render
from tests.upstream.tokens import decode, encode
from tests.upstream.wire import Connection, Gone, HttpRequest, dump, stream_events


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came. `body`: parsed, None where it is not a JSON object."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Abort:
    """A generation whose client left: how many tokens had been sent, and how many it would have had."""

    generation: Generation
    num_sent: int
    at: float


class _Refusal(Exception):
    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = dump({"error": {"message": message, "type": kind, "param": param, "code": status}})


class ScriptedUpstream:
    """One server. Change `script` between requests to make it do something else."""

    def __init__(self, script: Script | None = None, port: int = 0) -> None:
        self.script = script or Script()
        self.requests: list[Received] = []
        self.generations: list[Generation] = []
        self.aborts: list[Abort] = []
        self.num_tokens = 0
        self._port = port
        self._group: TaskGroup | None = None
        self._num_made = 0
        self._changed: anyio.Event | None = None

    @property
    def url(self) -> str:
        """Base URL, without /v1."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def resumes(self) -> list[Generation]:
        """Requests that went on from a prefix, probes left out."""
        return [item for item in self.generations if item.is_resume and not item.is_probe]

    @property
    def chats(self) -> list[Generation]:
        """First legs, probes left out."""
        return [item for item in self.generations if not item.is_resume and not item.is_probe]

    async def aborted(self, count: int) -> None:
        """Waits until that many generations have been aborted. Raises TimeoutError."""
        with anyio.fail_after(PATIENCE_S):
            while len(self.aborts) < count:
                self._changed = anyio.Event()
                await self._changed.wait()

    async def __aenter__(self) -> Self:
        self._group = await anyio.create_task_group().__aenter__()
        await self._group.start(self._listen)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None
        self._group.cancel_scope.cancel()
        # The group is not told of the body's own error, which would come out wrapped in an exception group.
        await self._group.__aexit__(None, None, None)

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self._port)
        self._port = listener.extra(SocketAttribute.local_port)
        async with listener:
            task_status.started()
            await listener.serve(self._serve)

    async def _serve(self, stream: SocketStream) -> None:
        connection = Connection(stream)
        async with stream:
            try:
                while (request := await connection.next_request()) is not None:
                    await self._respond(connection, request)
            except Gone:
                pass

    async def _respond(self, connection: Connection, request: HttpRequest) -> None:
        try:
            parsed = json.loads(request.body) if request.body else None
        except ValueError:
            parsed = None
        body = parsed if isinstance(parsed, dict) else None
        self.requests.append(Received(request.method, request.path, request.headers, body))
        try:
            if request.method == "GET":
                await self._get(connection, request.path)
            elif body is None:
                raise _Refusal(400, "1 validation error: JSON decode error", "Bad Request", "body")
            else:
                await self._post(connection, request.path, body)
        except _Refusal as refused:
            await connection.answer(refused.status, refused.body)

    async def _get(self, connection: Connection, path: str) -> None:
        match path:
            case "/v1/models":
                model = {"id": self.script.model, "object": "model", "created": 0, "owned_by": "scripted"}
                model |= {"max_model_len": self.script.max_model_len}
                await connection.answer(200, dump({"object": "list", "data": [model]}))
            case "/health":
                await connection.answer(200, b"")
            case "/version":
                await connection.answer(200, dump({"version": "0.32.0"}))
            case "/metrics":
                label = f'{{engine="0",model_name="{self.script.model}"}}'
                name = "vllm:generation_tokens_total"
                text = f"# TYPE {name} counter\n{name}{label} {self.num_tokens}.0\n"
                await connection.answer(200, text.encode(), "text/plain; version=0.0.4")
            case _:
                await connection.answer(404, b'{"detail":"Not Found"}')

    async def _post(self, connection: Connection, path: str, body: dict[str, Any]) -> None:
        if "model" in body and body["model"] != self.script.model:
            raise _Refusal(404, f"The model `{body['model']}` does not exist.", "NotFoundError", "model")
        match path:
            case "/v1/chat/completions":
                await self._generate(connection, self._chat(body))
            case "/v1/completions":
                await self._generate(connection, self._raw(body, body.get("prompt")))
            case "/tokenize" if self.script.has_tokenize:
                await self._tokenize(connection, body)
            case "/detokenize" if self.script.has_tokenize:
                await connection.answer(200, dump({"prompt": decode(body["tokens"])}))
            case "/v1/chat/completions/render" if self.script.has_generate:
                await self._render(connection, body)
            case "/inference/v1/generate" if self.script.has_generate:
                await self._generate(connection, self._raw(body, body.get("token_ids")))
            case _:
                await connection.answer(404, b'{"detail":"Not Found"}')

    async def _tokenize(self, connection: Connection, body: dict[str, Any]) -> None:
        ids = self._chat(body).prompt_ids if "messages" in body else encode(str(body.get("prompt", "")))
        answer: dict[str, Any] = {
            "count": len(ids),
            "max_model_len": self.script.max_model_len,
            "tokens": ids,
            "token_strs": None,
        }
        await connection.answer(200, dump(answer))

    async def _render(self, connection: Connection, body: dict[str, Any]) -> None:
        sampled = ("temperature", "top_p", "seed", "max_tokens")
        sampling = {name: body[name] for name in sampled if body.get(name) is not None}
        if (form := body.get("response_format") or {}).get("type") == "json_schema":
            sampling["structured_outputs"] = {"json": form["json_schema"].get("schema")}
        kwargs = {"chat_template_kwargs": {"add_generation_prompt": True}}
        answer: dict[str, Any] = {"request_id": "chatcmpl-0", "token_ids": self._chat(body).prompt_ids}
        answer["sampling_params"] = sampling
        answer |= {"model": self.script.model, "reasoning_ended": False, "reasoning_parser_kwargs": kwargs}
        await connection.answer(200, dump(answer | {"output_mode": "tokens", "cache_salt": None, "priority": 0}))

    def _chat(self, body: dict[str, Any]) -> Generation:
        messages = body.get("messages")
        if not isinstance(messages, list):
            raise _Refusal(400, "1 validation error: body.messages: Field required", "Bad Request", "body.messages")
        if not messages:
            raise _Refusal(400, "Cannot apply chat template to an empty conversation.")
        continues = bool(body.get("continue_final_message"))
        ids = render(messages, script=self.script, continues=continues)
        return self._checked(Generation("chat", ids, decode(ids), body, seed=body.get("seed")))

    def _raw(self, body: dict[str, Any], prompt: object) -> Generation:
        if isinstance(prompt, str):
            prompt = encode(prompt)
        if not isinstance(prompt, list) or not prompt:
            raise _Refusal(400, "2 validation errors: body.token_ids: Field required", "Bad Request", "body.prompt")
        try:
            text = decode(prompt)
        except IndexError as error:
            raise _Refusal(400, str(error)) from error
        seed = (body.get("sampling_params") or body).get("seed")
        path: Path = "generate" if "sampling_params" in body else "raw"
        return self._checked(Generation(path, prompt, text, body, seed=seed))

    def _checked(self, generation: Generation) -> Generation:
        room = self.script.max_model_len
        if room is not None and len(generation.prompt_ids) >= room:
            message = f"This model's maximum context length is {room} tokens. However, your prompt is longer."
            raise _Refusal(400, message, param="input_tokens")
        return generation

    async def _generate(self, connection: Connection, generation: Generation) -> None:
        self.generations.append(generation)
        fault = self.script.fault(generation)
        if fault is not None and fault.status is not None:
            await connection.answer(fault.status, fault.body, fault.content_type or "application/json")
            return
        self._num_made += 1
        prefix = "chatcmpl" if generation.path == "chat" else "cmpl"
        shape = Shape(self.script, generation, f"{prefix}-{self._num_made:016x}", int(time.time()))
        answer = Answer(shape, self._count)
        done = False
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await connection.until_gone()
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                if generation.body.get("stream"):
                    await stream_events(connection, answer.payloads(), self.script.framing, fault)
                else:
                    await answer.write_whole(connection, fault)
                done = True
            except Gone:
                pass
            group.cancel_scope.cancel()
        if not done:
            self.aborts.append(Abort(generation, answer.num_sent, time.monotonic()))
            if self._changed is not None:
                self._changed.set()
            raise Gone

    def _count(self, num_tokens: int) -> None:
        self.num_tokens += num_tokens


@contextmanager
def running(script: Script | None = None, port: int = 0) -> Iterator[ScriptedUpstream]:
    """A scripted upstream in a thread of its own, for tests that block."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(ScriptedUpstream(script, port)) as upstream,
    ):
        yield upstream


def refused_url() -> str:
    """A base URL where nothing listens: a port that no system hands out."""
    return "http://127.0.0.1:1"

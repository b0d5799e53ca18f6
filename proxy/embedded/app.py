"""The embedded server: the organism behind the part of vLLM's HTTP interface that the proxy uses. No torch, no GPU.

Routes: /v1/chat/completions, /v1/completions, /tokenize, /detokenize, /v1/models, /health, /version, /metrics.
A closed connection aborts its generation, streamed or not; `vllm:generation_tokens_total` stands still from then on.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from proxy.embedded.engine import Engine
from proxy.embedded.errors import BadRequest
from proxy.embedded.generation import Service, UnknownModel
from proxy.embedded.model import DEFAULT_FOLDER, Model
from proxy.embedded.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest, parse
from proxy.embedded.respond import EventStream, until_disconnect

DEFAULT_NAME = "steer-organism"


def create_app(
    folder: Path = DEFAULT_FOLDER, *, name: str = DEFAULT_NAME, slots: int = 8, threads: int = 1
) -> Starlette:
    """The ASGI app. The model is loaded at once, its engine runs from start-up to shutdown.

    `slots`: sequences decoded together, more wait; `threads`: of the network. Raises ModelFilesError.
    """
    service = Service(Engine(Model(folder, threads=threads), slots=slots), folder, name)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.engine.start()
        yield
        service.engine.close()

    routes = [
        Route("/v1/chat/completions", _handler(service, _chat), methods=["POST"]),
        Route("/v1/completions", _handler(service, _complete), methods=["POST"]),
        Route("/tokenize", _handler(service, _tokenize), methods=["POST"]),
        Route("/detokenize", _handler(service, _detokenize), methods=["POST"]),
        Route("/v1/models", _handler(service, _models)),
        Route("/metrics", _handler(service, _metrics)),
        Route("/health", _handler(service, _health)),
        Route("/version", _handler(service, _version)),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def serve(
    host: str = "127.0.0.1",
    port: int = 8100,
    folder: Path = DEFAULT_FOLDER,
    *,
    name: str = DEFAULT_NAME,
    slots: int = 8,
) -> None:
    """Run the server until it is stopped."""
    uvicorn.run(create_app(folder, name=name, slots=slots), host=host, port=port, log_level="warning")


def _handler(
    service: Service, handle: Callable[[Service, Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await handle(service, request)
        except UnknownModel as error:
            return _error(404, "NotFoundError", str(error), "model")
        except BadRequest as error:
            return _error(400, "BadRequestError", str(error), None)

    return endpoint


def _error(status: int, kind: str, message: str, param: str | None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": status}}, status)


async def _body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise BadRequest(f"the request body is no valid JSON: {error}") from error


async def _chat(service: Service, request: Request) -> Response:
    wanted = parse(ChatRequest, await _body(request))
    job = service.chat(wanted)
    if wanted.stream:
        return EventStream(job.stream)
    return await until_disconnect(request, job.body())


async def _complete(service: Service, request: Request) -> Response:
    wanted = parse(CompletionRequest, await _body(request))
    job = service.complete(wanted)
    if wanted.stream:
        return EventStream(job.stream)
    return await until_disconnect(request, job.body())


async def _tokenize(service: Service, request: Request) -> Response:
    return JSONResponse(service.tokenize(parse(TokenizeRequest, await _body(request))))


async def _detokenize(service: Service, request: Request) -> Response:
    return JSONResponse({"prompt": service.detokenize(parse(DetokenizeRequest, await _body(request)))})


async def _models(service: Service, request: Request) -> Response:
    card = {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "steer",
        "root": service.name,
        "parent": None,
        "max_model_len": service.engine.model.max_length,
    }
    return JSONResponse({"object": "list", "data": [card]})


async def _health(service: Service, request: Request) -> Response:
    return Response(status_code=200)


async def _version(service: Service, request: Request) -> Response:
    return JSONResponse({"version": "steer-embedded"})


async def _metrics(service: Service, request: Request) -> Response:
    return PlainTextResponse(service.metrics(), media_type="text/plain; version=0.0.4")

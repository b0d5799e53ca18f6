"""Any vLLM URL as an engine: `/v1/completions` with token-id prompts, bounded concurrency, retries.

Rules kept here, the live proxy's own: a leg continues from exact ids, ids come back as the engine sampled them
(`return_token_ids`), text is never trusted for ids. One request a sample, so that each has its own seed. Requests of
several threads share one event loop, one connection pool and one bound.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import aiohttp
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel, ConfigDict, Field

from train.rollout.errors import EngineError, RolloutConfigError
from train.rollout.generator import FinishReason, Generated, Request, Sampling

# 0.5, 1, 2, … seconds between attempts: a restarting engine takes about a minute, which six attempts do not bridge; a
# job that fails can be started again.
_FIRST_WAIT_S = 0.5
_SHOWN_ERROR_CHARS = 300


class ServedConfig(BaseModel):
    """A vLLM server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field("http://127.0.0.1:8000", description="base URL, without /v1")
    concurrency: int = Field(64, ge=1, le=4096, description="requests in flight, over all threads")
    retries: int = Field(5, ge=0, le=20, description="after connection failures, 429 and 5xx")
    timeout_s: float = Field(600.0, gt=0, description="of one generation")
    api_key_env: str | None = Field(None, description="environment variable that holds the key")


class _Retry(Exception):
    """Worth another attempt; the message says why."""


class ServedGenerator:
    """`model` is the served name: of the model, or of an adapter. `api_key` None sends none."""

    def __init__(self, model: str, config: ServedConfig, api_key: str | None) -> None:
        self._model = model
        self._config = config
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._exits = ExitStack()
        self._portal = self._exits.enter_context(start_blocking_portal("asyncio"))
        self._room: asyncio.Semaphore
        self._session: aiohttp.ClientSession
        self._portal.call(self._open)
        try:
            self._context_length = self._portal.call(self._find_model)
        except BaseException:
            self.close()
            raise

    @property
    def context_length(self) -> int | None:
        """`max_model_len` as the server lists it."""
        return self._context_length

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        """All at once, as far as the bound lets."""
        return self._portal.call(self._all, list(requests), sampling)

    def close(self) -> None:
        """Closes the connections."""
        self._portal.call(self._session.close)
        self._exits.close()

    async def _open(self) -> None:
        self._room = asyncio.Semaphore(self._config.concurrency)
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            connector=aiohttp.TCPConnector(limit=0),
        )

    async def _all(self, requests: list[Request], sampling: Sampling) -> list[Generated]:
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._one(request, sampling)) for request in requests]
        except* EngineError as group:
            raise group.exceptions[0] from None
        return [task.result() for task in running]

    async def _one(self, request: Request, sampling: Sampling) -> Generated:
        body = {
            "model": self._model,
            "prompt": request.prefix,
            "max_tokens": request.max_tokens,
            "seed": request.seed % 2**63,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "return_token_ids": True,
            "skip_special_tokens": False,
            **({"top_k": sampling.top_k} if sampling.top_k else {}),
        }
        async with self._room:
            return _generated(await self._ask("POST", "/v1/completions", body), self._config.url)

    async def _find_model(self) -> int | None:
        listed = await self._ask("GET", "/v1/models", None)
        try:
            lengths = {str(item["id"]): item.get("max_model_len") for item in listed["data"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise RolloutConfigError(f"engine.served.url: {self._config.url} is no OpenAI-compatible server") from error
        if self._model not in lengths:
            raise RolloutConfigError(
                f"model.served_name: {self._config.url} serves no {self._model!r}; it serves {', '.join(lengths)}"
            )
        return lengths[self._model]

    async def _ask(self, method: str, path: str, body: Any) -> Any:
        """The answer's JSON, after as many attempts as it takes. Raises EngineError."""
        url, wait = self._config.url.rstrip("/") + path, _FIRST_WAIT_S
        for attempt in range(self._config.retries + 1):
            try:
                return await self._ask_once(method, url, body)
            except (_Retry, aiohttp.ClientError, TimeoutError, OSError) as error:
                if attempt == self._config.retries:
                    reason = str(error) or type(error).__name__
                    raise EngineError(
                        f"{url}: {reason}, {attempt + 1} times; is the server up? Start the job again to go on"
                    ) from error
            await asyncio.sleep(wait)
            wait *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _ask_once(self, method: str, url: str, body: Any) -> Any:
        async with self._session.request(method, url, json=body) as response:
            raw = await response.read()
        shown = raw[:_SHOWN_ERROR_CHARS].decode("utf-8", "replace")
        if response.status == 429 or response.status >= 500:
            raise _Retry(f"status {response.status} ({shown})")
        if response.status != 200:
            raise EngineError(f"{url}: status {response.status} ({shown})")
        try:
            return json.loads(raw)
        except ValueError as error:
            raise EngineError(f"{url}: the answer is not JSON") from error


def _generated(answer: Any, url: str) -> Generated:
    try:
        choice = answer["choices"][0]
        ids, reason = choice.get("token_ids"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineError(f"{url}: the answer is no completion") from error
    if not isinstance(ids, list) or not all(type(id) is int for id in ids):
        raise EngineError(f"{url}: no token_ids in the answer; return_token_ids needs vLLM 0.10.2 or later")
    if reason not in ("stop", "length"):
        raise EngineError(f"{url}: the generation ended with finish_reason {reason!r}")
    finish: FinishReason = reason
    return Generated(ids, finish)

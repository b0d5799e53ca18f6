"""The teacher: any OpenAI-compatible model, asked through the OpenAI SDK, with pacing, retries and the cache.

Rules kept here:
1. Every reply is in the cache before anyone sees it; what is in the cache is never asked again, also not at once twice.
2. A rate limit stops all requests for as long as the server says, not only the one that met it.
3. What is wrong with the job (key, model, address) ends it at once. What is wrong with one conversation (too long,
   refused by a filter) is a reply, and is cached. What may pass (429, 5xx, no connection) is tried again.
"""

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from train.label.cache import CallCache, Reply, Usage, call_key
from train.label.config import ResponseFormat, TeacherConfig
from train.label.errors import LabelConfigError, TeacherError
from train.label.prompt import Question, schema

# 1, 2, 4, … seconds between attempts, at most a minute: with the default of 6 retries an engine has about a minute to
# come back. Shortened at random, so that requests do not come back all at once.
_FIRST_WAIT_S = 1.0
_LONGEST_BACKOFF_S = 60.0
_RETRIED = frozenset({408, 409, 429})
_SHOWN_CHARS = 300


class Teacher:
    """Asks. `format` is set by the probe. Counts what this start of the job sent and tried again."""

    def __init__(self, config: TeacherConfig, client: openai.AsyncOpenAI, cache: CallCache) -> None:
        self.format: ResponseFormat = "schema" if config.response_format == "auto" else config.response_format
        self.num_sent = 0
        self.num_retried = 0
        self.keys: set[str] = set()
        self._config = config
        self._client = client
        self._cache = cache
        self._pending: dict[str, anyio.Event] = {}
        self._room = anyio.Semaphore(config.concurrency)
        self._next_start = 0.0

    async def ask(self, question: Question, *, fresh: bool = False) -> Reply:
        """The reply, from the cache unless `fresh`. Raises TeacherError, LabelConfigError, OSError of the cache."""
        body = self._body(question)
        key = call_key(body)
        self.keys.add(key)
        while (others := self._pending.get(key)) is not None:
            await others.wait()
        known = None if fresh else self._cache.get(key)
        if known is not None:
            return known
        self._pending[key] = anyio.Event()
        try:
            async with self._room:
                reply = await self._send(body)
            self._cache.put(key, reply)
        finally:
            self._pending.pop(key).set()
        return reply

    def _body(self, question: Question) -> dict[str, Any]:
        config = self._config
        body: dict[str, Any] = {"model": config.model, "messages": question.messages}
        body[config.max_tokens_field] = config.max_tokens
        if config.sends_temperature:
            body["temperature"] = config.temperature
        if config.seed is not None:
            body["seed"] = config.seed
        match self.format:
            case "schema":
                shape = {"name": "labels", "strict": True, "schema": schema(question.numbers, question.judges_request)}
                body["response_format"] = {"type": "json_schema", "json_schema": shape}
            case "json":
                body["response_format"] = {"type": "json_object"}
            case "text":
                pass
        return body | config.options

    async def _send(self, body: dict[str, Any]) -> Reply:
        """As many attempts as it takes."""
        wait = _FIRST_WAIT_S
        for attempt in range(self._config.retries + 1):
            await self._turn()
            self.num_sent += 1
            try:
                return _reply(await self._complete(body), self._config)
            except openai.APIConnectionError as error:  # a timeout is one too
                cause = str(error.__cause__ or "") or type(error).__name__
                reason, asked = f"{error} ({cause})", None
            except openai.APIStatusError as error:
                if (refusal := _refusal(error, self._config)) is not None:
                    return refusal
                reason, asked = f"status {error.status_code}: {_shown(error)}", _retry_after(error)
            if attempt == self._config.retries:
                raise TeacherError(
                    f"{self._config.base_url}: {reason}, {attempt + 1} times; answers so far are kept, start the job "
                    "again to go on"
                )
            self.num_retried += 1
            await self._pause(asked, wait)
            wait = min(2 * wait, _LONGEST_BACKOFF_S)
        raise AssertionError("the last attempt returns or raises")

    async def _complete(self, body: dict[str, Any]) -> Any:
        rest = {name: value for name, value in body.items() if name not in ("model", "messages")}
        try:
            return await self._client.chat.completions.create(
                model=body["model"], messages=body["messages"], extra_body=rest
            )
        except (openai.APIResponseValidationError, ValueError) as error:
            raise TeacherError(_no_api(self._config)) from error

    async def _pause(self, asked: float | None, wait: float) -> None:
        """What the server asks for holds everyone; a backoff of our own only this request."""
        if not asked:
            await anyio.sleep(wait * (1 - 0.25 * random.random()))
            return
        if asked > self._config.max_wait_s:
            raise TeacherError(
                f"{self._config.base_url} asks to wait {asked:.0f} s, more than teacher.max_wait_s; answers so far are "
                "kept, start the job again later"
            )
        self._next_start = max(self._next_start, time.monotonic() + asked)

    async def _turn(self) -> None:
        """Waits until this request may start."""
        rate = self._config.requests_per_minute
        while (left := self._next_start - time.monotonic()) > 0:  # noqa: ASYNC110 - the moment may move while it waits
            await anyio.sleep(left)
        if rate is not None:
            self._next_start = time.monotonic() + 60 / rate


@asynccontextmanager
async def open_teacher(config: TeacherConfig, cache: CallCache) -> AsyncIterator[Teacher]:
    """A teacher with its connections. Raises LabelConfigError where the key is missing."""
    key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else "none"
    if not key:
        raise LabelConfigError(f"teacher.api_key_env: the environment variable {config.api_key_env} is not set")
    async with openai.AsyncOpenAI(
        base_url=config.base_url, api_key=key, timeout=config.timeout_s, max_retries=0
    ) as client:
        yield Teacher(config, client, cache)


def _reply(completion: Any, config: TeacherConfig) -> Reply:
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        raise TeacherError(_no_api(config))
    choice = completion.choices[0]
    refused = "the teacher declined to label it" if choice.message.refusal else None
    if choice.finish_reason == "content_filter":
        refused = "the provider's content filter stopped the answer"
    if choice.finish_reason == "length":
        refused = f"the answer was cut off at teacher.max_tokens = {config.max_tokens}"
    return Reply(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason,
        refused=refused,
        usage=_usage(completion.usage),
    )


def _usage(given: CompletionUsage | None) -> Usage | None:
    if given is None:
        return None
    details = given.prompt_tokens_details
    return Usage(
        input=given.prompt_tokens, cached=(details and details.cached_tokens) or 0, output=given.completion_tokens
    )


def _refusal(error: openai.APIStatusError, config: TeacherConfig) -> Reply | None:
    """The reply where the fault is this conversation's; None where another attempt may help."""
    status, shown = error.status_code, _shown(error)
    if status in (401, 403):
        named = f"the key in {config.api_key_env}" if config.api_key_env else "requests without a key"
        raise LabelConfigError(
            f"teacher.api_key_env: {config.base_url} does not accept {named} (status {status}: {shown})"
        )
    if status == 404:
        raise LabelConfigError(
            f"teacher.model, teacher.base_url: {config.base_url} knows no model {config.model!r}, or is no "
            f"OpenAI-compatible address, which mostly ends in /v1 (status 404: {shown})"
        )
    if status == 402 or error.code == "insufficient_quota":
        raise TeacherError(f"{config.base_url}: the account's quota is spent (status {status}: {shown})")
    if status in _RETRIED or status >= 500:
        return None
    return Reply(refused=f"status {status}: {shown}")


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the server asks to wait; None where it says nothing that can be read."""
    headers = error.response.headers
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        seconds = headers.get("retry-after")
        return None if seconds is None else max(0.0, float(seconds))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError):
        return None


def _shown(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(message or error.message).split())[:_SHOWN_CHARS]


def _no_api(config: TeacherConfig) -> str:
    return (
        f"teacher.base_url: {config.base_url} answers, but not as an OpenAI-compatible server; the address mostly ends "
        "in /v1"
    )

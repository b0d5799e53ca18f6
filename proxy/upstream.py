"""The connection to the inference engine: opens streams, posts JSON, closes promptly.

Rules kept here: a stream is owned with `async with`; leaving it closes the socket at once, which makes the engine
abort. Every wait has a bound (connect, silence between bytes). What the engine answers with an error status is handed
up with its body, so that the client sees it as the engine sent it. Keys and text are never logged.
"""

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import aiohttp

from proxy.errors import UpstreamError, UpstreamStatusError
from proxy.sse import DONE, SSEDecoder

# Bodies other than streams: a long non-streamed completion with logprobs is some MB; the bound protects memory.
MAX_BODY_BYTES = 64 << 20
_READ_BYTES = 1 << 16
# uvicorn, under vLLM too, closes idle connections after 5 s: well before that a new one is the better choice.
_KEEP_ALIVE_S = 2.0


class UpstreamStream:
    """An open event stream. Iterate for batches of payloads; the last batch may end with the end mark."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._decoder = SSEDecoder()
        self.saw_done = False

    def __aiter__(self) -> AsyncIterator[list[bytes]]:
        return self._batches()

    async def _batches(self) -> AsyncIterator[list[bytes]]:
        try:
            async for chunk in self._response.content.iter_any():
                if payloads := self._decoder.feed(chunk):
                    if DONE in payloads:
                        self.saw_done = True
                        payloads = payloads[: payloads.index(DONE)]
                    if payloads:
                        yield payloads
                    if self.saw_done:
                        return
        except TimeoutError as error:
            raise UpstreamError("the upstream sent nothing for too long; raise upstream.read_timeout_s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"the upstream broke off the stream: {type(error).__name__}") from error
        if self._decoder.is_mid_event:
            raise UpstreamError("the upstream ended the stream in the middle of an event")

    def close(self) -> None:
        """Drop the connection now; the engine aborts the generation. Safe to call twice."""
        self._response.close()

    async def __aenter__(self) -> "UpstreamStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class UpstreamClient:
    """One engine (or a load balancer in front of several), by base URL."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 300.0,
        max_connections: int = 1024,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s, sock_read=read_timeout_s)
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "UpstreamClient":
        self._session = aiohttp.ClientSession(
            timeout=self._timeout,
            # aiohttp sets TCP_NODELAY itself; a small read buffer lets back-pressure reach the engine
            connector=aiohttp.TCPConnector(limit=self._max_connections, keepalive_timeout=_KEEP_ALIVE_S),
            read_bufsize=_READ_BYTES,
            auto_decompress=True,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def stream(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> UpstreamStream:
        """Open an event stream, which the caller owns: use `async with`, or `close` it.

        Raises UpstreamStatusError for an error status, UpstreamError when the engine is out of reach.
        """
        response = await self._request("POST", path, body, headers)
        try:
            if response.status != 200:
                raise await self._status_error(response)
            if "text/event-stream" not in response.content_type:
                raise UpstreamError(
                    f"the upstream answered {path} with {response.content_type or 'no content type'} instead of an "
                    "event stream; check that upstream.url points at an OpenAI-compatible server"
                )
        except BaseException:
            response.close()
            raise
        return UpstreamStream(response)

    async def post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
        """POST JSON, get the body; raises as `stream` does."""
        return await self._body("POST", path, body, headers)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        """GET, get the body; raises as `stream` does."""
        return await self._body("GET", path, None, headers)

    async def _body(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None
    ) -> bytes:
        response = await self._request(method, path, body, headers)
        try:
            if response.status != 200:
                raise await self._status_error(response)
            return await _read_bounded(response)
        except TimeoutError as error:
            raise UpstreamError("the upstream did not answer in time; raise upstream.read_timeout_s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"the upstream broke off its answer: {type(error).__name__}") from error
        finally:
            response.close()

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "used outside `async with`"
        sent = dict(headers or {})
        if self._api_key is not None:
            sent["Authorization"] = f"Bearer {self._api_key}"
        try:
            return await self._send(self._session, method, self.base_url + path, body, sent)
        except TimeoutError as error:
            raise UpstreamError(f"no answer from the upstream at {self.base_url} in time: is it overloaded?") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamError(
                f"cannot reach the upstream at {self.base_url} ({type(error).__name__}): "
                "start the engine, or correct upstream.url"
            ) from error

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> aiohttp.ClientResponse:
        """Send; once more where the engine had just closed the idle connection that was to carry the request.

        Nothing was answered then, and a generation that had begun would have died with its connection: asking again
        does nothing twice.
        """
        try:
            return await session.request(method, url, json=body, headers=headers, allow_redirects=False)
        except TimeoutError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise  # no connection at all: there is nobody to ask
            return await session.request(method, url, json=body, headers=headers, allow_redirects=False)

    async def _status_error(self, response: aiohttp.ClientResponse) -> UpstreamError:
        if self._api_key is not None and response.status in (401, 403):
            # The operator's key, so no client's fault; and what the engine says about a key may quote it.
            return UpstreamError("the upstream refuses the proxy's own key: correct upstream.api_key")
        try:
            body = await _read_bounded(response, 1 << 20)
        except (aiohttp.ClientError, OSError, TimeoutError, UpstreamError):
            body = b""
        if self._api_key is not None:
            body = body.replace(self._api_key.encode(), b"***")
        return UpstreamStatusError(response.status, body, response.content_type)


async def _read_bounded(response: aiohttp.ClientResponse, limit: int = MAX_BODY_BYTES) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise UpstreamError(f"the upstream sent a body of more than {limit} bytes")
        parts.append(chunk)
    return b"".join(parts)

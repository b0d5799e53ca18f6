"""Errors of `proxy`: each type names whose doing it was.

ProxyError
├── ConfigError              the operator's configuration can't be used; names the setting and the fix
├── RequestError             the client's request is refused before anything is sent upstream
└── UpstreamError            the engine can't be reached, broke off, or sent bytes that are not its format
    └── UpstreamStatusError  the engine answered with an error status; its body goes to the client as it is
"""

from collections.abc import Mapping
from typing import Any, Literal

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "server_error",
]

_TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ProxyError(Exception):
    """Anything that `proxy` raises on purpose. The message says what to do."""


class ConfigError(ProxyError):
    """A setting that can't be used."""


class RequestError(ProxyError):
    """A request that is refused. `param` names the field (None: the request as a whole), `code` is for programs.

    `headers` go out with the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def to_openai(self) -> dict[str, Any]:
        """The error body that OpenAI clients understand."""
        return openai_error(self.status, self.message, self.param, self.code)


class UpstreamError(ProxyError):
    """The engine failed: a message fit for the client, without the engine's address or internals beyond need."""

    status = 502

    def to_openai(self) -> dict[str, Any]:
        """The error body that OpenAI clients understand."""
        return openai_error(self.status, str(self), None, "upstream_error")


class UpstreamStatusError(UpstreamError):
    """The engine answered with an error status: `status`, `body` and `content_type` as it sent them."""

    def __init__(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        super().__init__(f"the upstream answered with status {status}")
        self.status = status
        self.body = body
        self.content_type = content_type


def openai_error(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """`{"error": {...}}` as OpenAI words it; the type follows from the status."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}

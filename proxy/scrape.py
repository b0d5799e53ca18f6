"""`GET /metrics`: who may look, and the page.

On the proxy's own port, as engines do. It holds counts and times, no text; still it tells how much traffic there is and
what it is like, so that it is shown for an operator's key or for `metrics.token`, and freely to this machine alone as
long as no keys are asked for.
"""

import os
import re
import secrets
import time
from pathlib import Path

import anyio.to_thread
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import Scope, Send

from proxy.access.identity import LOCAL, Identity, identity_of
from proxy.errors import RequestError
from proxy.log import InterventionLog
from proxy.log.errors import LogError
from proxy.metrics import Metrics

# Where workers keep their values; prometheus_client reads it when it is imported.
FILES_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# Review states change by hand: counting them over the whole log more often would be waste.
_REVIEWS_EVERY_S = 60.0
_LIVE_FILE = re.compile(r"gauge_live[a-z]*_(\d+)\.db$")


class MetricsPage:
    """The page of one process. `token` None: the page has none of its own."""

    def __init__(self, metrics: Metrics, log: InterventionLog, token: str | None) -> None:
        self._metrics = metrics
        self._log = log
        self._token = token
        self._reviews_at = -_REVIEWS_EVERY_S

    async def answer(self, scope: Scope, send: Send) -> None:
        """One look. Raises RequestError 401 or 403."""
        headers = dict(scope["headers"])
        self._check(identity_of(scope), headers.get(b"authorization", b""))
        await self._count_reviews()
        accept = headers.get(b"accept", b"").decode("latin-1")
        body, kind = await anyio.to_thread.run_sync(self._render, accept)
        fields = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    def _check(self, identity: Identity, authorization: bytes) -> None:
        if identity.key_id is not None:
            return  # the gate has looked at its role
        if self._token is None:
            if identity != LOCAL:
                raise RequestError(
                    403,
                    "metrics are shown for an operator's key, or for metrics.token where that is set",
                    code="forbidden",
                )
            return
        kind, _, given = authorization.partition(b" ")
        if kind.lower() != b"bearer" or not secrets.compare_digest(given.strip(), self._token.encode()):
            raise RequestError(
                401,
                "metrics ask for `Authorization: Bearer` with metrics.token or an operator's key",
                code="unauthorized",
            )

    async def _count_reviews(self) -> None:
        if time.monotonic() - self._reviews_at < _REVIEWS_EVERY_S:
            return
        self._reviews_at = time.monotonic()
        try:
            with anyio.move_on_after(5):
                self._metrics.show_reviews((await self._log.stats()).by_review_state)
        except LogError:
            self._metrics.log_failures.labels("stats").inc()

    def _render(self, accept: str) -> tuple[bytes, str]:
        """In a thread: it may take milliseconds."""
        self._metrics.refresh_drift()
        encode, kind = choose_encoder(accept)
        folder = os.environ.get(FILES_VARIABLE)
        if folder is None:
            return encode(self._metrics.registry), kind
        forget_dead_workers(Path(folder))
        merged = CollectorRegistry()
        MultiProcessCollector(merged, folder)  # type: ignore[no-untyped-call]  # the library's own omission
        return encode(merged), kind


def forget_dead_workers(folder: Path) -> None:
    """Drop the gauges of processes that are gone; their counters stay, for what they counted has happened."""
    for name in os.listdir(folder):
        if (match := _LIVE_FILE.match(name)) and not _is_alive(int(match[1])):
            mark_process_dead(int(match[1]), str(folder))  # type: ignore[no-untyped-call]  # as above


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

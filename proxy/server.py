"""Runs the application under uvicorn: one process, or several that share the port and the log.

The socket is bound here, before any worker starts, so that a taken port is one clear message; TCP_NODELAY is set on
every connection by the event loop's own transport.
"""

import logging
import os
import socket
import tempfile
from contextlib import ExitStack
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp

from detector.errors import ArtifactError
from proxy.access.opening import check_exposure
from proxy.app import create_app, open_services
from proxy.errors import ConfigError
from proxy.log.errors import LogError
from proxy.scrape import FILES_VARIABLE
from proxy.settings import SETTINGS_VARIABLE, Settings, dump_settings, restore_settings

# A stopping server gives running streams this long; then their records are completed as interrupted.
GRACEFUL_SHUTDOWN_S = 20


def bind(host: str, port: int) -> socket.socket:
    """The listening socket. Raises ConfigError when the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from error
    listener.set_inheritable(True)
    return listener


def run(settings: Settings) -> None:
    """Serve until stopped. Raises ConfigError."""
    check_exposure(settings)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    listener = bind(settings.server.host, settings.server.port)
    host, port = listener.getsockname()[:2]
    logging.getLogger("steer.proxy").info("serving http://%s:%d/v1 for %s", host, port, settings.upstream.url)
    options: dict[str, Any] = {
        "log_config": None,
        "access_log": False,  # request lines are the operator's load balancer's business; ours must stay free of text
        "lifespan": "on",
        "timeout_graceful_shutdown": GRACEFUL_SHUTDOWN_S,
        "server_header": False,
        "date_header": True,
    }
    if settings.server.workers == 1:
        _run_here(settings, listener, options)
        return
    try:
        anyio.run(check_services, settings)  # else workers would fail, and be started again, for ever
    except ConfigError:
        listener.close()
        raise
    os.environ[SETTINGS_VARIABLE] = dump_settings(settings)
    with ExitStack() as stack:
        if settings.metrics.enabled:
            os.environ[FILES_VARIABLE] = stack.enter_context(_metrics_folder())
        _run_workers(settings.server.workers, listener, options)


def _run_workers(workers: int, listener: socket.socket, options: dict[str, Any]) -> None:
    from uvicorn.supervisors import Multiprocess  # noqa: PLC0415 - only here, it pulls in multiprocessing

    config = uvicorn.Config(
        "proxy.server:worker_app",
        factory=True,
        workers=workers,
        **options,
    )
    Multiprocess(config, sockets=[listener]).run()


def _metrics_folder() -> "tempfile.TemporaryDirectory[str]":
    """Where workers keep their figures, one small file each. Raises ConfigError where there is no room for it."""
    try:
        return tempfile.TemporaryDirectory(prefix="steer-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigError(
            f"metrics.enabled: several workers need a writable temporary folder ({error}); set TMPDIR, or turn it off"
        ) from error


def _run_here(settings: Settings, listener: socket.socket, options: dict[str, Any]) -> None:
    failures: list[Exception] = []
    server = uvicorn.Server(uvicorn.Config(create_app(settings, on_failed_start=failures.append), **options))
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if server.started:
            raise
    if failures and isinstance(failures[0], ConfigError | ArtifactError | LogError):
        raise ConfigError(str(failures[0])) from failures[0]
    if not server.started:
        raise ConfigError("the proxy could not start; the messages above say why")


async def check_services(settings: Settings) -> None:
    """Open and close everything that a worker needs. Raises ConfigError for what can't be used."""
    try:
        async with open_services(settings):
            pass
    except (ArtifactError, LogError) as error:
        raise ConfigError(str(error)) from error


def worker_app() -> ASGIApp:
    """The application of one worker process; uvicorn calls it there."""
    settings = restore_settings(os.environ[SETTINGS_VARIABLE])
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return create_app(settings)

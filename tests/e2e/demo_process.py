"""`steer demo` as a person starts it: a process of its own, and demos in this process in front of a scripted engine."""

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio.from_thread import start_blocking_portal

from proxy.demo.runner import Demo, running_demo
from tests.e2e.harness import TableScorer
from tests.patience import PATIENCE_S
from tests.upstream import Script, ScriptedUpstream

ROOT = Path(__file__).resolve().parents[2]
# What an operator may have set for `steer serve` must not make the demo another one.
_OPERATORS_ENVIRONMENT = {"STEER_POLICY__MODE": "monitor", "STEER_UPSTREAM__URL": "http://127.0.0.1:9"}


def command(*arguments: str) -> list[str]:
    """`steer demo …` with this interpreter."""
    return [sys.executable, "-m", "steer.cli", "demo", *arguments]


def environment(folder: Path) -> dict[str, str]:
    """This process's, with a temporary folder of its own."""
    return os.environ | _OPERATORS_ENVIRONMENT | {"TMPDIR": str(folder), "COLUMNS": "120"}


@dataclass
class RunningDemo:
    """A started `steer demo`. `ready_s`: seconds from starting the process to its own word that it is ready."""

    process: subprocess.Popen[str]
    url: str
    ready_s: float
    folder: Path

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C; the exit code and what it said on standard error."""
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors


@contextmanager
def started_demo(*arguments: str) -> Iterator[RunningDemo]:
    """The demo on a free port until the block ends."""
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        process = subprocess.Popen(
            command("--port", "0", "--no-open", *arguments),
            cwd=ROOT,
            env=environment(Path(name)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            url = _wait_for_url(process)
            yield RunningDemo(process, url, time.monotonic() - started, Path(name))
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def _wait_for_url(process: subprocess.Popen[str]) -> str:
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"is ready: (http://\S+)", line):
                found.put(match[1].rstrip("/").partition("/?")[0])
                return
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    url = found.get(timeout=PATIENCE_S)
    if url is None:
        raise AssertionError(f"the demo ended at once: {process.communicate()[1]}")
    return url


@contextmanager
def scripted_demo(script: Script) -> Iterator[Demo]:
    """A demo in a thread of this process: scripted engine, and a scorer that flags what contains CUE."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(ScriptedUpstream(script)) as upstream,
        portal.wrap_async_context_manager(running_demo(upstream.url, port=0, scorer=TableScorer())) as demo,
    ):
        yield demo

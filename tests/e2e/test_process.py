"""The real `steer serve` as a process: how it starts, refuses to start, drains, and what survives its death."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steer.cli import app
from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.upstream import Fault, Script, ScriptedUpstream, Trace, on_resume, running

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
ARTIFACT = ROOT / "detector" / "artifacts" / "default"
# With a threshold of 0 every segment is a cue, whatever the artifact thinks of it.
HALTS = {"STEER_POLICY__THRESHOLD": "0"}
TRACE = Trace("\nOkay, let me think about this. Then more. SECRET.\n", "\n\nSECRET answer.")
STALLING = Script(TRACE, fault=on_resume(Fault("stall", after_frames=1, stall_s=60)))

Serve = Callable[..., "Served"]


class Served:
    """A `steer serve` process that listens at `url`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, errors: Path) -> None:
        self.process, self.port, self.errors = process, port, errors
        self.url = f"http://127.0.0.1:{port}"

    def wait_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.url + "/healthz", timeout=10) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(self.errors.read_text())

    def begin(self, **body: object) -> socket.socket:
        """A streamed request, its answer not read yet."""
        sent = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "Hello"}]} | body
        data = json.dumps(sent).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + data)
        return connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """All bytes up to the first that hold `mark`, or to the end."""
    received = b""
    while mark not in received and (part := connection.recv(1 << 16)):
        received += part
    return received


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with running(Script(TRACE)) as server:
        yield server


@pytest.fixture
def serve(tmp_path: Path, upstream: ScriptedUpstream) -> Iterator[Serve]:
    """Starts proxies in front of `upstream`, on one log; all are dead at the end."""
    with ExitStack() as stack:
        number = iter(range(100))

        def start(*options: str, port: int | None = None, **variables: str) -> Served:
            if port is None:
                port = free_port()
            errors = tmp_path / f"errors-{next(number)}.txt"
            command = [sys.executable, "-m", "steer.cli", "serve", "--upstream", upstream.url, "--port", str(port)]
            command += ["--log", f"sqlite:///{tmp_path}/log.sqlite", *options]
            with errors.open("wb") as target:
                process = subprocess.Popen(command, stderr=target, env=os.environ | variables, cwd=ROOT)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return Served(process, port, errors)

        yield start


def rows(folder: Path) -> list[tuple[str, bool]]:
    with closing(sqlite3.connect(folder / "log.sqlite")) as connection:
        found = connection.execute("select outcome, completed_us is not null from interventions order by created_us")
        return [(outcome, bool(completed)) for outcome, completed in found]


def test_what_a_killed_proxy_left_open_is_interrupted_after_the_restart_none_lost_none_doubled(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    served = serve(**HALTS)
    served.wait_ready()
    upstream.script = STALLING
    told = {"steer": {"show_interventions": True}}
    with served.begin(**told) as one, served.begin(**told) as two:
        for connection in (one, two):
            read_until(connection, b'"steer"')
        before = len(rows(tmp_path))
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
    open_before = [outcome for outcome, _ in rows(tmp_path)].count("open")
    assert open_before == 2
    again = serve(**HALTS)
    again.wait_ready()
    outcomes = rows(tmp_path)
    assert len(outcomes) == before
    assert [outcome for outcome, _ in outcomes].count("interrupted") == open_before
    assert "open" not in [outcome for outcome, _ in outcomes]


def test_a_stopped_proxy_lets_running_streams_end_and_takes_no_new_ones(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    served = serve(STEER_POLICY__THRESHOLD="1")
    served.wait_ready()
    upstream.script = Script(Trace("\nOkay." + " wait" * 100, "\n\nDone."), delay_ms=10)
    with served.begin() as connection:
        read_until(connection, b'"reasoning"')
        served.process.send_signal(signal.SIGTERM)
        rest = read_until(connection, b"[DONE]")
        assert b"[DONE]" in rest
    assert served.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_S).close()


def test_two_workers_share_the_port_and_the_log(serve: Serve, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    served = serve("--workers", "2", STEER_UPSTREAM__API_KEY="sk-own", STEER_POLICY__MAX_INTERVENTIONS="1", **HALTS)
    served.wait_ready()
    for _ in range(6):
        with served.begin() as connection:
            answer = read_until(connection, b"[DONE]")
        assert b"SECRET" not in answer
        assert b"content_filter" in answer
    assert {item.headers.get("authorization") for item in upstream.requests} == {"Bearer sk-own"}
    assert len(rows(tmp_path)) == 12
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_corrupt_artifact_keeps_the_proxy_from_starting(serve: Serve, tmp_path: Path, workers: str) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(ARTIFACT, folder)
    with (folder / "tokenizer.json").open("ab") as file:
        file.write(b" ")
    served = serve("--workers", workers, STEER_DETECTOR__ARTIFACT=str(folder))
    assert served.process.wait(PATIENCE_S) == 2
    assert "tokenizer.json" in served.errors.read_text()


EARLY: list[tuple[tuple[str, ...], dict[str, str], str]] = [
    (("--host", "0.0.0.0"), {}, "server.host"),
    (("--mode", "held"), {}, "policy.mode"),
    (("--config", "/nowhere/steer.toml"), {}, "/nowhere/steer.toml"),
    (("--port", "70000"), {}, "server.port"),
    ((), {"STEER_POLICY__TRESHOLD": "0.5"}, "policy.treshold"),
    ((), {"STEER_POLCY__THRESHOLD": "0.5"}, "STEER_POLCY__THRESHOLD"),
    (("--workers", "2", "--port", "0", "--log", "nonsense"), {}, "log.url"),
]


@pytest.mark.parametrize(("options", "variables", "named"), EARLY)
def test_a_wrong_setting_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], variables: dict[str, str], named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["serve", *options])
    assert done.exit_code == 2, done.output
    assert named in done.stderr


WRONG: list[tuple[tuple[str, ...], dict[str, str], str]] = [
    ((), {"STEER_UPSTREAM__TOKENIZER": "/nowhere/tokenizer.json"}, "upstream.tokenizer"),
    ((), {"STEER_DETECTOR__ARTIFACT": "/nowhere"}, "/nowhere"),
    (("--log", "sqlite:////proc/nowhere/log.sqlite"), {}, "log.url"),
]


@pytest.mark.parametrize(("options", "variables", "named"), WRONG)
def test_a_wrong_setting_ends_with_code_2_and_its_name(
    serve: Serve, options: tuple[str, ...], variables: dict[str, str], named: str
) -> None:
    served = serve(*options, HF_HUB_OFFLINE="1", **variables)
    assert served.process.wait(PATIENCE_S) == 2, served.errors.read_text()
    said = served.errors.read_text()
    assert named in said.splitlines()[-1], said
    assert "Traceback" not in said


def test_a_taken_port_ends_with_code_2_and_the_port(serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        served = serve(port=taken.getsockname()[1])
        assert served.process.wait(PATIENCE_S) == 2
    assert "--port" in served.errors.read_text()

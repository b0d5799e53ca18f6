"""A real vLLM server for tests: started once per session on the small random model, stopped whatever happens.

Rules kept here: `STEER_TEST_VLLM_URL` names a server that runs already, which is then only used; a server started here
has a process group of its own, and that group alone is stopped; a failed start shows the end of the server's log.
Import `vllm_server` in a conftest or a test module, and mark the tests `vllm`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.ports import free_port as free_port  # others start servers, too
from tests.vllm.make_model import CONTEXT, cached_model

ROOT = Path(__file__).resolve().parents[2]
# A quiet machine needs half a minute, one that is shared by other jobs several.
START_TIMEOUT_S = 500
_STOP_TIMEOUT_S = 60
_LOG_LINES = 40

_OPTIONS = " ".join(
    [
        f"--dtype bfloat16 --max-model-len {CONTEXT} --enforce-eager --max-num-seqs 16",
        "--block-size 32 --kv-cache-memory-bytes 64M --enable-prompt-tokens-details",
        "--enable-scale-out --enable-lora --max-loras 2 --max-lora-rank 16",
        "--reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes",
    ]
).split()
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else it pins itself to cores that others use
    "OMP_NUM_THREADS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A running server. `model_dir` holds the tokenizer; None where the server was not started here."""

    url: str
    model: str
    model_dir: Path | None

    def generation_tokens(self) -> int:
        """The engine's own count of tokens that it has generated."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE_S) as answer:
            lines = answer.read().decode().splitlines()
        counts = [float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total{")]
        return int(sum(counts))


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _model_of(url: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=PATIENCE_S) as answer:
        return str(json.load(answer)["data"][0]["id"])


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


def _say(text: str) -> None:
    sys.__stderr__ and sys.__stderr__.write(text)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    started, shown_at = time.monotonic(), time.monotonic()
    while not _is_healthy(url):
        waited_s = time.monotonic() - started
        if process.poll() is not None:
            raise RuntimeError(
                f"vLLM ended with status {process.returncode} while starting. Its log ends:\n{_tail(log)}"
            )
        if waited_s > START_TIMEOUT_S:
            raise RuntimeError(f"vLLM is not up after {START_TIMEOUT_S} s. Its log ends:\n{_tail(log)}")
        if time.monotonic() - shown_at > 10:
            _say(f"\nwaiting for vLLM, {waited_s:.0f} s so far\n")
            shown_at = time.monotonic()
        time.sleep(0.5)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait(_STOP_TIMEOUT_S)


@contextmanager
def running_vllm(
    *extra_options: str, model_dir: Path | None = None, model: str = "tiny", port: int | None = None
) -> Iterator[VllmServer]:
    """A server of one's own, on the small random model unless `model_dir` names another, and on a free port.

    Raises RuntimeError with the end of its log when it does not start.
    """
    python = os.environ.get("STEER_TEST_VLLM_PYTHON", str(ROOT / ".venv-vllm/bin/python"))
    model_dir, port = model_dir or cached_model(), port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)]
    command += ["--served-model-name", model, "--host", "127.0.0.1", "--port", str(port), *_OPTIONS, *extra_options]
    with tempfile.TemporaryDirectory(prefix="steer-vllm-") as folder:
        log = Path(folder) / "vllm.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT,
                cwd=folder,  # away from the checkout, whose packages it must not import
                start_new_session=True,
            )
        try:
            _wait(process, url, log)
            yield VllmServer(url, model, model_dir)
        finally:
            _stop(process)


@pytest.fixture(scope="session")
def vllm_server() -> Iterator[VllmServer]:
    """The session's server: the one that STEER_TEST_VLLM_URL names, or one started here."""
    if url := os.environ.get("STEER_TEST_VLLM_URL"):
        url = url.rstrip("/")
        model_dir = os.environ.get("STEER_TEST_VLLM_MODEL_DIR")
        yield VllmServer(url, _model_of(url), Path(model_dir) if model_dir else None)
        return
    with running_vllm() as server:
        yield server

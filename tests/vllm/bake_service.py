"""A service to bake in, of real parts: vLLM with the nano organism, `steer serve` in front of it, a log on disk."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from typer.testing import CliRunner

from steer.adapter import passing_name
from steer.cli import app
from tests.conftest import ROOT
from tests.train.test_offline_chain import NANO, config_of, moved
from tests.vllm.fixture import free_port, running_vllm
from train.adapters.check import weights_digest
from train.bake.config import load_config
from train.bake.toml import dump_toml

BASE = ALIAS = "organism"  # clients ask for the base model's own name, and get whichever version serves
PATIENCE_S = 2400.0  # of every wait, a whole bake among them: nothing here depends on how busy the machine is
# Base, champion, candidate, one that stands by, one that drains and one under evaluation. No prompt is read in parts:
# where one with a seed is, vLLM 0.32 dies on a CPU ("CPU Generator does not use offset"). A frame holds several tokens:
# each costs the engine, the proxy and the client about as much as a token's own arithmetic.
_ENGINE = [
    "--max-model-len", "1024", "--max-loras", "6", "--max-num-seqs", "64", "--dtype", "float32",
    "--max-num-batched-tokens", "65536", "--kv-cache-memory-bytes", "512M",
    "--stream-interval", "8",
]  # fmt: skip

# Good candidates add 0.02 to 0.05 in 96 look-alikes, over-refusing ones 0.7: far from what chance does to either.
_OVER_REFUSAL_MARGIN = 0.3


def steer(*arguments: object) -> str:
    """The output of a command that must succeed."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.output


def fails(*arguments: object) -> str:
    """What a command says that must fail."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 1, done.output
    return done.stderr


async def until(is_so: Callable[[], bool]) -> None:
    """Waits for what a process or a database comes to."""
    with anyio.fail_after(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - neither rings a bell
            await anyio.sleep(0.1)


@dataclass
class BakeService:
    """The running parts. `seconds`: what each step has cost."""

    folder: Path
    port: int = field(default_factory=free_port)
    engine_port: int = field(default_factory=free_port)
    seconds: dict[str, float] = field(default_factory=dict)
    _engine: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        """The proxy's."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine_url(self) -> str:
        """vLLM's own."""
        return f"http://127.0.0.1:{self.engine_port}"

    @property
    def log(self) -> str:
        """URL of the log."""
        return f"sqlite:///{self.folder}/log.sqlite"

    @property
    def settings(self) -> Path:
        """TOML of the proxy."""
        return self.folder / "steer.toml"

    @property
    def bakes(self) -> Path:
        """What `steer bake` writes to."""
        return self.folder / "bakes"

    @property
    def bake_config(self) -> Path:
        """TOML of the bake: the shipped one, moved, at this engine."""
        return self.folder / "bake-nano.toml"

    @contextmanager
    def clock(self, step: str) -> Iterator[None]:
        """Counts a step's seconds."""
        began = time.monotonic()
        yield
        self.seconds[step] = round(self.seconds.get(step, 0.0) + time.monotonic() - began, 1)

    # -- parts --------------------------------------------------------------------------------------------------------

    def start_engine(self) -> None:
        """vLLM with the nano organism, at the same port every time."""
        with self.clock("vLLM starts"):
            self._engine.enter_context(running_vllm(*_ENGINE, model_dir=NANO, model=BASE, port=self.engine_port))

    def stop_engine(self) -> None:
        """Its adapters are lost."""
        self._engine.close()

    def write_configs(self) -> None:
        """The proxy's settings: the shipped detector, the organism's own triggers; and the bake's."""
        bake = self.shipped("bake-nano")
        for job in ("rollout", "evaluation"):
            bake[job]["engine"]["served"]["url"] = self.engine_url
        bake["gate"]["over_refusal_margin"] = _OVER_REFUSAL_MARGIN
        self.bake_config.write_text(dump_toml(bake), encoding="utf-8")
        settings = {
            "server": {"port": self.port},
            "upstream": {"url": self.engine_url},
            "log": {"url": self.log},
            "policy": {"max_interventions": 2, "triggers": bake["rollout"]["triggers"]["pool"]},
            "adapters": {"refresh_s": 0.5},
        }
        self.settings.write_text(dump_toml(settings), encoding="utf-8")

    def shipped(self, name: str) -> dict[str, Any]:
        """A config of train/configs, moved."""
        values: dict[str, Any] = moved(config_of(name), self.folder)
        return values

    @contextmanager
    def serving(self) -> Iterator[None]:
        """`steer serve` until the block ends."""
        command = [sys.executable, "-m", "steer.cli", "serve", "--config", str(self.settings)]
        said = self.folder / "serve.log"
        with said.open("wb") as sink:
            process = subprocess.Popen(command, stderr=sink, stdout=sink, cwd=ROOT, env=os.environ)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not self._is_healthy():
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < deadline, said.read_text()
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(60)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    # -- commands -----------------------------------------------------------------------------------------------------

    def job(self, job: str, config: dict[str, Any], out: Path) -> dict[str, Any]:
        """`steer train JOB`, or `steer eval`; its report."""
        path = out.with_suffix(".toml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_toml(config), encoding="utf-8")
        steer(*([job] if job == "eval" else ["train", job]), "--config", path, "--out", out)
        report: dict[str, Any] = json.loads((out / "report.json").read_text())
        return report

    def bake(self) -> dict[str, Any]:
        """`steer bake`; the newest report."""
        steer("bake", "--config", self.bake_config, "--out", self.bakes, "--settings", self.settings)
        newest = max(self.bakes.glob("*/report.json"))
        report: dict[str, Any] = json.loads(newest.read_text())
        return report

    def adapters(self, *arguments: object) -> str:
        """`steer adapters …` on this log."""
        return steer("adapters", *arguments, "--log", self.log)

    def show(self, id: str) -> dict[str, Any]:
        """A version: state, reason, gate, events (newest first)."""
        shown: dict[str, Any] = json.loads(self.adapters("show", id, "--json"))
        return shown

    def add_arguments(self, folder: Path) -> list[object]:
        """What registers a folder as the next version."""
        names = ["--name", "safe", "--base", NANO, "--alias", ALIAS, "--base-model", BASE]
        return ["adapters", "add", folder, *names, "--log", self.log]

    def limits(self) -> dict[str, Any]:
        """The gate's, as `adapters add --limits` takes them."""
        return load_config(self.bake_config).gate.model_dump()

    def evaluated(self, adapter: Path, out: Path) -> dict[str, Any]:
        """`steer eval` of an adapter, asked what the bake asks; the engine holds it for that long."""
        id = passing_name("bad", weights_digest(adapter))
        config = load_config(self.bake_config).evaluation_config("candidate", id, adapter)
        self._post("/v1/load_lora_adapter", {"lora_name": id, "lora_path": str(adapter)})
        try:
            return self.job("eval", config.model_dump(mode="json", exclude_none=True), out)
        finally:
            self.unload(id)

    def unload(self, id: str) -> None:
        """The engine forgets an adapter."""
        self._post("/v1/unload_lora_adapter", {"lora_name": id})

    def _post(self, path: str, body: dict[str, str]) -> None:
        request = urllib.request.Request(
            self.engine_url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            pass

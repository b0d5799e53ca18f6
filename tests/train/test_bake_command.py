"""`steer bake` and `steer adapters` as commands, on a real log, registry and engine routes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from typer.testing import CliRunner

from proxy.adapters.changes import NewAdapter, register, start_canary
from proxy.adapters.desk import BakeDesk
from proxy.adapters.errors import NotAllowedNow
from proxy.adapters.lock import held
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.rows import read_route
from proxy.log import InterventionLog
from proxy.settings import Settings
from steer.cli import app
from tests.proxy.lora_upstream import LoraUpstream
from tests.train.bake_world import halted, settings_of
from tests.train.test_adapters import random_adapter
from tests.train.tiny_reasoner import one_thread, save_reasoner
from tests.upstream import refused_url
from train.bake.toml import dump_toml

__all__ = ["one_thread"]


def steer(*arguments: str) -> str:
    """The output of a command that must succeed."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def fails(*arguments: str, code: int = 1) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.stderr


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A log with four halts in it."""
    url = f"sqlite:///{tmp_path}/log.sqlite"

    async def fill() -> None:
        async with InterventionLog.open(url) as opened:
            for number in range(4):
                record = halted(number)
                await opened.insert(record.model_copy(update={"outcome": "open", "completion": None}))
                assert record.completion is not None
                await opened.complete(record.id, record.completion)

    anyio.run(fill)
    return url


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_command_from_the_log_to_a_canary_and_the_way_back(log: str, tmp_path: Path) -> None:
    config, out = tmp_path / "bake.toml", tmp_path / "bakes"
    config.write_text(dump_toml(settings_of(tmp_path)), encoding="utf-8")
    command = ["bake", "--config", str(config), "--out", str(out), "--log", log, "--upstream", refused_url()]
    told = steer(*command, "--dry-run")
    assert "records in the log: 4" in told
    assert not out.exists()
    with AdapterRegistry.open(log) as registry, held(registry, "safe"):
        assert "another bake of 'safe' has been running" in fails(*command)
    told = steer(*command, "--once")
    assert "bake 0001: canary" in told
    assert "version: safe@1" in told
    assert "bake 0002: nothing new" in steer(*command)
    listed = json.loads(steer("adapters", "list", "--json", "--log", log))
    [route] = listed["routes"]
    assert (route["alias"], route["base_model"], route["candidate"], route["weight"]) == (
        "public",
        "tiny",
        "safe@1",
        0.25,
    )
    assert "safe@1" in steer("adapters", "list", "--log", log)
    shown = json.loads(steer("adapters", "show", "safe@1", "--json", "--log", log))
    assert shown["manifest"]["parents"]["pairs"]["safety"] == 4
    assert [event["action"] for event in shown["events"]] == ["canary 0.25", "registered"]
    assert shown["events"][0]["actor"] == "bake (local)"
    assert "improvement" in steer("adapters", "show", "safe@1", "--log", log)
    steer("adapters", "promote", "safe@1", "--log", log)
    assert "public -> safe@1" in steer("adapters", "list", "--log", log)
    assert "SWITCHED OFF" not in steer("adapters", "list", "--log", log)
    steer("adapters", "off", "public", "--reason", "incident", "--log", log)
    assert "SWITCHED OFF" in steer("adapters", "list", "--log", log)
    steer("adapters", "on", "public", "--log", log)
    steer("adapters", "rollback", "public", "--log", log)
    assert "public -> tiny (no adapter)" in steer("adapters", "list", "--log", log)
    assert "nothing to roll back" in fails("adapters", "rollback", "safe@1", "--log", log)


def test_adapters_by_hand_are_checked_numbered_and_kept_from_traffic(tmp_path: Path) -> None:
    log = f"sqlite:///{tmp_path}/log.sqlite"
    save_reasoner(tmp_path / "model")
    folder = random_adapter(tmp_path / "model", tmp_path / "adapter")
    add = ["adapters", "add", str(folder), "--name", "safe", "--base", str(tmp_path / "model"), "--alias", "public"]
    assert steer(*add, "--log", log).strip() == "safe@1"
    assert "was never evaluated" in fails("adapters", "canary", "safe@1", "--log", log)
    assert "needs both" in fails("adapters", "canary", "safe@1", "--override", "looked at", "--log", log, code=2)
    steer("adapters", "canary", "safe@1", "--weight", "0.2", "--override", "looked at", "--by", "ada", "--log", log)
    shown = json.loads(steer("adapters", "show", "safe@1", "--json", "--log", log))
    assert shown["gate"]["override"] == {"by": "ada", "reason": "looked at"}
    assert "takes traffic as canary" in fails("adapters", "retire", "safe@1", "--log", log)
    (folder / "optimizer.pt").write_bytes(b"")
    assert "does not belong into an adapter" in fails(*add, "--log", log)
    merged = tmp_path / "merged"
    (folder / "optimizer.pt").unlink()
    steer("adapters", "merge", str(folder), "--base", str(tmp_path / "model"), "--out", str(merged))
    assert (merged / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--every", "soon"], "--every: 'soon' is no interval"),
        (["--every", "6h", "--once"], "give --every or --once, not both"),
        ([], "does not fit"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "bake.toml").write_text('name = "safe"\n')
    log = f"sqlite:///{tmp_path}/log.sqlite"
    told = fails("bake", "--config", str(tmp_path / "bake.toml"), "--out", str(tmp_path / "out"), "--log", log,
                 *arguments, code=2)  # fmt: skip
    assert words in told


@pytest.fixture
def engine() -> Iterator[LoraUpstream]:
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(LoraUpstream()) as up:
        yield up


def test_a_desk_lends_the_engine_a_candidate_and_sees_what_is_loaded(engine: LoraUpstream, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"log": {"url": f"sqlite:///{tmp_path}/log.sqlite"}, "upstream": {"url": engine.url}}
    )
    values: dict[str, Any] = {"manifest": {}, "gate": {"promotes": True}}
    with AdapterRegistry.open(settings.log.url) as registry:
        desk = BakeDesk(settings, registry, "safe", "public", "scripted", "test")
        assert (desk.champion(), desk.version("safe@1"), desk.next_number()) == (None, None, 1)
        new = NewAdapter("safe", "public", "scripted", str(tmp_path), "a" * 64, **values)
        registry.change(lambda c: register(c, new, "test"))
        assert desk.version("safe@1") == ("safe@1", tmp_path, False)
        with desk.lent(tmp_path, "f" * 64) as name:
            assert engine.adapters == {name: str(tmp_path)}
        assert engine.adapters == {}
        engine.adapters["safe@1"] = str(tmp_path)
        found = desk.version("safe@1")
        assert found is not None
        assert found.is_loaded
        assert desk.canary("safe@1", 0.5, None).startswith("safe@1 takes 50%")
        registry.change(lambda c: start_canary(c, "safe@1", 0.8, "ada", None))
        assert desk.canary("safe@1", 0.5, 100) == "safe@1 is the candidate of 'public' already"
        assert registry.read(lambda c: read_route(c, "public")).route.weight == 0.8, "a person's word stays"
        new = NewAdapter("safe", "public", "scripted", str(tmp_path / "b"), "b" * 64, **values)
        other = registry.change(lambda c: register(c, new, "test"))
        assert desk.canary(other, 0.5, None).startswith("no canary: safe@1 is the candidate")
        with desk.lock(), pytest.raises(NotAllowedNow), desk.lock():
            raise AssertionError("two hold it")

"""Every command against the table of roles: who is refused, who is not, and when nobody is asked."""

import json
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from proxy.access.model import Tenant
from proxy.access.roles import COMMANDS, Role, allowed_to_run
from proxy.access.store import AccessStore
from steer.cli import app

RUNNER = CliRunner()


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with what is typed after `steer`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        if getattr(command, "invoke_without_command", True):  # else it only holds others
            yield prefix + name, command


EVERY = dict(commands(typer.main.get_command(app)))
STAFFS = sorted(name for name in EVERY if allowed_to_run(name) is not None)


# What a command wants to know before it looks at anything else.
MORE = {
    "log purge": ["--tenant", "acme"],
    "review decide": ["--note", "fine"],
    "review settle": ["--reject"],
    "review judge": ["--judge", "organism", "--out", "verdicts"],
}


def arguments(name: str, folder: Path) -> list[str]:
    """The least that the command takes, whatever it means."""
    found = MORE.get(name, [])
    for parameter in EVERY[name].params:
        if parameter.required and parameter.opts[0] not in found:
            option, value = parameter.opts[0], value_for(parameter.type_descriptor.annotation, folder)
            found = [*found, option, value] if option.startswith("-") else [value, *found]
    return found


def value_for(kind: Any, folder: Path) -> str:
    if isinstance(kind, EnumType):
        return str(next(iter(kind)).value)
    return str(folder / "log.sqlite") if kind is Path else "1"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Role, str]:
    """A log with a key of each role; commands find it by their environment."""
    url = f"sqlite:///{tmp_path}/log.sqlite"
    monkeypatch.setenv("STEER_LOG__URL", url)
    monkeypatch.chdir(tmp_path)
    with AccessStore.open(url) as store:
        return {role: store.create_key(role=role).text for role in Role}


def test_every_command_is_in_the_table() -> None:
    for name in EVERY:
        allowed_to_run(name)
    missing = {name for name in COMMANDS if name not in EVERY and not any(known.startswith(name) for known in EVERY)}
    assert missing <= {"eval"}


@pytest.mark.parametrize(
    "name",
    # One loads its judge, and torch with it, before it asks the log.
    [pytest.param(name, marks=pytest.mark.slow) if name == "review judge" else name for name in STAFFS],
)
def test_a_command_is_refused_to_whom_it_is_not_for(
    name: str, keys: dict[Role, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, given = allowed_to_run(name) or frozenset(), [*name.split(), *arguments(name, tmp_path)]
    for role, key in keys.items():
        if role in allowed:
            continue
        monkeypatch.setenv("STEER_KEY", key)
        done = RUNNER.invoke(app, given)
        assert done.exit_code == 1, (role, done.output)
        assert f"the key in STEER_KEY has role {role}" in done.stderr
        assert key not in done.output
    for wrong in ("", "sk-steer-nobody-secret", keys[Role.ADMIN][:-1]):
        monkeypatch.setenv("STEER_KEY", wrong)
        done = RUNNER.invoke(app, given)
        assert done.exit_code == 1, done.output
        assert "put it into STEER_KEY" in done.stderr
        assert not wrong or wrong not in done.output


def test_who_a_command_is_for_may_run_it(keys: dict[Role, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, role in (("tenants list", Role.OPERATOR), ("keys list", Role.ADMIN), ("log stats", Role.REVIEWER)):
        monkeypatch.setenv("STEER_KEY", keys[role])
        done = RUNNER.invoke(app, name.split())
        assert done.exit_code == 0, done.output


def test_what_acts_on_all_tenants_is_not_for_the_staff_of_one(
    keys: dict[Role, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AccessStore.open(f"sqlite:///{tmp_path}/log.sqlite") as store:
        store.create_tenant(Tenant("acme"))
        monkeypatch.setenv("STEER_KEY", store.create_key(role=Role.ADMIN, tenant="acme").text)
    for name in (
        "keys create --role admin",
        "log export --out all.jsonl",
        "log purge --tenant default",
        "tenants list",
    ):
        done = RUNNER.invoke(app, name.split())
        assert done.exit_code == 1, done.output
        assert "the key in STEER_KEY is of tenant acme" in done.stderr
    assert RUNNER.invoke(app, ["review", "list"]).exit_code == 0


@pytest.mark.parametrize("option", ["--requests-per-minute", "--tokens-per-minute", "--max-concurrent"])
def test_a_limit_that_no_database_holds_is_wrong_use(option: str, tmp_path: Path) -> None:
    log = ["--log", f"sqlite:///{tmp_path}/log.sqlite"]
    assert RUNNER.invoke(app, ["keys", "create", "--role", "client", option, "9" * 20, *log]).exit_code == 2


@pytest.mark.parametrize("state", ["revoked", "expired"])
def test_a_key_that_has_ended_runs_no_command(
    keys: dict[Role, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    with AccessStore.open(f"sqlite:///{tmp_path}/log.sqlite") as store:
        ended = store.create_key(role=Role.ADMIN, lifetime_us=0 if state == "expired" else None)
        if state == "revoked":
            store.revoke_key(ended.key.id)
    monkeypatch.setenv("STEER_KEY", ended.text)
    assert "that works" in RUNNER.invoke(app, ["keys", "list"]).stderr


def run(*given: str, code: int = 0) -> str:
    done = RUNNER.invoke(app, list(given))
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr


def test_keys_from_the_first_administrator_to_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_LOG__URL", f"sqlite:///{tmp_path}/log.sqlite")
    client = run("keys", "create", "--role", "client", "--name", "app", "--expires", "90d").strip()
    boss = run("keys", "create", "--role", "admin").strip()
    assert client.startswith("sk-steer-")
    assert "needs a key of role admin" in run("keys", "list", code=1)
    monkeypatch.setenv("STEER_KEY", boss)
    run("tenants", "create", "acme", "--policy", "mode=monitor", "--policy", "threshold=0.25", "--no-train")
    run("keys", "create", "--role", "client", "--tenant", "acme", "--requests-per-minute", "60")
    shown = json.loads(run("keys", "list", "--json"))
    assert [(row["role"], row["tenant"], row["limits"]) for row in shown] == [
        ("client", "default", ""),
        ("admin", "default", ""),
        ("client", "acme", "60/min"),
    ]
    assert {row["created_by"] for row in shown} == {"local", f"key:{shown[1]['id']}"}
    rotated = run("keys", "rotate", shown[0]["id"], "--overlap", "0m").strip()
    run("keys", "revoke", shown[2]["id"])
    assert [row["id"] for row in json.loads(run("keys", "list", "--json"))] == [shown[1]["id"], rotated[9:21]]
    assert {row["state"] for row in json.loads(run("keys", "list", "--all", "--json"))} == {
        "active",
        "expired",
        "revoked",
    }
    table = run("keys", "list", "--all")
    assert table.splitlines()[0].split()[:4] == ["id", "role", "tenant", "name"]
    for secret in (client, boss, rotated):
        assert secret[22:] not in table


def test_tenants_change_by_what_is_given_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_LOG__URL", f"sqlite:///{tmp_path}/log.sqlite")
    run("tenants", "create", "acme", "--policy", "mode=monitor", "--policy", "threshold=0.25", "--max-concurrent", "4")
    run("tenants", "set", "acme", "--policy", "threshold=", "--policy", "operating_point=strict", "--no-train")
    run("tenants", "set", "default", "--tokens-per-minute", "1000")
    run("tenants", "set", "acme", "--max-concurrent", "0")
    assert json.loads(run("tenants", "list", "--json")) == [
        {"name": "acme", "trains": "no", "limits": "", "policy": {"mode": "monitor", "operating_point": "strict"}},
        {"name": "default", "trains": "yes", "limits": "1000 tokens/min", "policy": {}},
    ]


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ("keys create --role boss", 2, "--role"),
        ("keys create --role client --expires soon", 2, "--expires"),
        ("keys create --role client --tenant nobody", 1, "steer tenants create nobody"),
        ("keys revoke nobody", 1, "nobody"),
        ("keys rotate nobody --overlap 1y", 2, "--overlap"),
        ("tenants create Acme", 2, "NAME"),
        ("tenants create acme --policy mode", 2, "name=value"),
        ("tenants create acme --policy mode=held", 2, "policy.mode"),
        ("tenants create acme --policy operating_point=nowhere", 2, "policy.operating_point"),
        ("tenants set nobody", 1, "nobody"),
        ("keys list --log nonsense", 1, "log.url"),
    ],
)
def test_wrong_use_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, code: int, named: str
) -> None:
    monkeypatch.setenv("STEER_LOG__URL", f"sqlite:///{tmp_path}/log.sqlite")
    assert named in run(*given.split(), code=code)


def test_who_can_write_the_configuration_is_not_locked_out(
    keys: dict[Role, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEER_ACCESS__REQUIRED", "never")
    assert run("keys", "create", "--role", "admin")

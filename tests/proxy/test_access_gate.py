"""The gate around an application: what can't be reached, what is passed on, how long an old snapshot is believed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from proxy.access.directory import CURRENT_S, REFRESH_S, Directory
from proxy.access.gate import Gate, Required, admission_of
from proxy.access.identity import identity_of, require
from proxy.access.limits import Failures, Limiter
from proxy.access.model import Quota
from proxy.access.roles import OPERATORS, ROUTES, STAFF, Role, RouteTable
from proxy.access.store import AccessStore
from proxy.access.tenants import make_rules
from proxy.addresses import is_of_this_machine
from proxy.errors import RequestError
from proxy.settings import Settings

SETTINGS = Settings.model_validate({"policy": {"threshold": 0.5}})


class Clock:
    """Seconds that pass when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AccessStore]:
    with AccessStore.open(f"sqlite:///{tmp_path}/log.sqlite") as opened:
        yield opened


@pytest.fixture
def directory(store: AccessStore, clock: Clock) -> Iterator[Directory]:
    """Read once; from then on only when asked."""
    with Directory(store, lambda own: make_rules(SETTINGS, None, own), refresh_s=3600, clock=clock) as opened:
        yield opened


def gate_of(directory: Directory, required: Required = "always", offline_s: float = 60) -> Gate:
    table, limiter, failures = RouteTable(ROUTES), Limiter(Quota()), Failures(100)
    return Gate(table, directory, limiter, failures, required=required, is_exposed=False, offline_s=offline_s)


async def knock(gate: Gate, path: str, *keys: str, method: str = "GET") -> Scope:
    """What the application behind the gate gets. Raises RequestError where it gets nothing."""
    passed: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        passed.append(scope)

    async def receive() -> Message:
        raise AssertionError("the gate reads no body")

    async def send(_message: Message) -> None:
        raise AssertionError("the gate answers nothing itself")

    headers = [(b"accept", b"*/*"), *((b"authorization", f"Bearer {key}".encode()) for key in keys)]
    scope: Any = {"type": "http", "method": method, "path": path, "headers": headers, "client": ("127.0.0.1", 1)}
    await gate.around(app)(scope, receive, send)
    return passed[0]


async def refusal(gate: Gate, path: str, *keys: str, method: str = "GET") -> int:
    with pytest.raises(RequestError) as caught:
        await knock(gate, path, *keys, method=method)
    return caught.value.status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/embeddings", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "//v1/models", 404),
        ("GET", "/V1/models", 404),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
    ],
)
async def test_what_is_not_in_the_table_cannot_be_reached(
    directory: Directory, method: str, path: str, status: int
) -> None:
    for required in ("always", "never"):
        assert await refusal(gate_of(directory, required), path, method=method) == status


async def test_the_application_gets_the_identity_and_no_key(store: AccessStore, directory: Directory) -> None:
    issued = store.create_key(role=Role.CLIENT, name="app")
    scope = await knock(gate_of(directory), "/v1/models", issued.text)
    assert scope["headers"] == [(b"accept", b"*/*")]
    assert identity_of(scope) == issued.key.identity == admission_of(scope).identity
    assert identity_of(scope).actor == f"key:{issued.key.id}"
    assert require(scope, None).name == "app"
    with pytest.raises(RequestError, match="role is client; this needs admin or operator") as refused:
        require(scope, OPERATORS)
    assert refused.value.status == 403


async def test_head_is_as_good_as_get_and_no_more(store: AccessStore, directory: Directory) -> None:
    key, reviewer = store.create_key(role=Role.CLIENT).text, store.create_key(role=Role.REVIEWER).text
    assert await knock(gate_of(directory), "/v1/models", key, method="HEAD")
    assert await refusal(gate_of(directory), "/v1/models", reviewer, method="HEAD") == 403
    assert await refusal(gate_of(directory), "/v1/models", method="HEAD") == 401


async def test_a_snapshot_is_believed_for_as_long_as_is_stated_and_no_longer(
    store: AccessStore, directory: Directory, clock: Clock
) -> None:
    gate, known = gate_of(directory, offline_s=60), store.create_key(role=Role.CLIENT)
    await knock(gate, "/v1/models", known.text)  # is looked up, and from now on known
    store.revoke_key(known.key.id)
    for seconds in (REFRESH_S, CURRENT_S, CURRENT_S + 60):
        clock.now = directory.snapshot.read_at + seconds
        await knock(gate, "/v1/models", known.text)
    clock.now += 0.001
    assert await refusal(gate, "/v1/models", known.text) == 503
    assert await refusal(gate, "/v1/models", "sk-steer-nobody-secret") == 401  # the database is there, and was asked
    assert await refusal(gate, "/v1/models", known.text) == 401


def test_two_reads_fit_into_the_time_in_which_a_change_is_seen() -> None:
    assert 2 * REFRESH_S < CURRENT_S <= 5


async def test_a_wrong_secret_is_looked_up_just_as_an_unknown_id_is(
    store: AccessStore, directory: Directory, clock: Clock
) -> None:
    """Else the time of an answer would tell which ids there are."""
    key = store.create_key(role=Role.CLIENT)
    await knock(gate_of(directory), "/v1/models", key.text)
    for wrong in (key.text + "x", "sk-steer-nobody-secret"):
        clock.now += 1
        before = directory.snapshot.read_at
        assert await refusal(gate_of(directory), "/v1/models", wrong) == 401
        assert directory.snapshot.read_at > before


def test_every_role_but_admin_is_kept_from_something() -> None:
    for role in Role:
        refused = [route for route in ROUTES if route.allowed is not None and role not in route.allowed]
        assert bool(refused) is (role is not Role.ADMIN)
    assert STAFF is not None
    assert Role.CLIENT not in STAFF


@pytest.mark.parametrize(
    ("header", "version"),
    [
        (b"x-forwarded-proto", "1.1"),
        (b"x-forwarded-server", "1.1"),
        (b"via", "1.1"),
        (b"true-client-ip", "1.1"),
        (b"cf-connecting-ip", "1.1"),
        (b"accept", "1.0"),  # as nginx asks unless it is told otherwise, with this machine's name and no header
    ],
)
def test_a_reverse_proxy_next_door_is_somebody_elses_voice(header: bytes, version: str) -> None:
    own: dict[str, Any] = {"client": ("127.0.0.1", 1), "headers": [(b"host", b"127.0.0.1:8080")], "http_version": "1.1"}
    assert is_of_this_machine(own)
    assert not is_of_this_machine(own | {"headers": [*own["headers"], (header, b"1")], "http_version": version})

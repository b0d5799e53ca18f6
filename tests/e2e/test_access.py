"""Keys on a real port: who gets in, with what, and what the engine, the record and the logs see of it."""

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from proxy.access.model import Quota, Tenant
from proxy.access.roles import ROUTES, Role, Route
from proxy.access.store import AccessStore, Issued
from proxy.access.tenants import make_rules
from proxy.log import Filters, LogReader
from proxy.settings import Settings
from tests.e2e.harness import CUE, RunningProxy, running_proxy
from tests.patience import PATIENCE_S
from tests.upstream import Fault, Script, ScriptedUpstream, Trace, on_chat

HALTING = Trace(f"\nOkay. {CUE} here. More.\n", "\n\nBad.")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def issue(folder: Path, role: Role = Role.CLIENT, **values: Any) -> Issued:
    with AccessStore.open(f"sqlite:///{folder}/log.sqlite") as store:
        return store.create_key(role=role, **values)


def add_tenant(folder: Path, tenant: Tenant) -> None:
    with AccessStore.open(f"sqlite:///{folder}/log.sqlite") as store:
        store.create_tenant(tenant)


@asynccontextmanager
async def proxy_of(
    script: Script, folder: Path, **sections: Any
) -> AsyncIterator[tuple[RunningProxy, ScriptedUpstream]]:
    async with ScriptedUpstream(script) as engine, running_proxy(engine.url, folder, **sections) as proxy:
        yield proxy, engine


# -- roles ------------------------------------------------------------------------------------------------------------


async def ask(proxy: RunningProxy, route: Route, headers: dict[str, str]) -> tuple[int, bytes]:
    path = route.path.replace("{", "").replace("}", "")
    if route.method == "GET":
        reply = await proxy.get(path, headers=headers)
    elif route.path == "/v1/chat/completions":
        reply = await proxy.chat(headers=headers, max_tokens=8)
    else:
        reply = await proxy.post(path, headers=headers, json={})
    return reply.status, reply.raw


async def test_every_route_lets_its_roles_in_and_nobody_else(tmp_path: Path) -> None:
    keys = {role: issue(tmp_path, role).text for role in Role}
    async with proxy_of(Script(), tmp_path) as (proxy, _):
        for route in ROUTES:
            for role, key in keys.items():
                status, raw = await ask(proxy, route, bearer(key))
                is_allowed = route.allowed is None or role in route.allowed
                assert (status == 403) is not is_allowed, (route, role, status, raw)
                is_missing = status == 404 and "{" in route.path  # the thing, not the path
                assert is_missing or status not in (401, 404, 405, 500), (route, role, status, raw)
                if not is_allowed:
                    assert f"role is {role}".encode() in raw
            status, raw = await ask(proxy, route, {})
            refused = (200, 401, 403)[0 if route.allowed is None else 2 if route.has_own_token else 1]
            assert status == refused, (route, raw)
            status, raw = await ask(proxy, route, bearer("sk-steer-nobody"))
            assert status == (200 if route.allowed is None else 401), (route, raw)


# -- what clients see -------------------------------------------------------------------------------------------------


async def test_the_sdk_raises_what_its_users_know(tmp_path: Path) -> None:
    good, reviewer = issue(tmp_path, quota=Quota(requests_per_minute=2)), issue(tmp_path, Role.REVIEWER)
    expired = issue(tmp_path, lifetime_us=0)
    messages: Any = [{"role": "user", "content": "Hello"}]
    async with proxy_of(Script(), tmp_path) as (proxy, _):

        def client(key: str) -> openai.AsyncOpenAI:
            return openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0)

        async with client(good.text) as sdk:
            assert (await sdk.models.list()).data[0].id == "scripted"
            done = await sdk.chat.completions.create(model="scripted", messages=messages)
            assert done.choices[0].message.content == "\n\nFine."
            with pytest.raises(openai.RateLimitError) as limited:
                await sdk.chat.completions.create(model="scripted", messages=messages, stream=True)
            assert limited.value.code == "rate_limit_exceeded"
            assert 1 <= int(limited.value.response.headers["retry-after"]) <= 30
        for key, kind in (
            ("whatever", openai.AuthenticationError),
            (good.text[:-1], openai.AuthenticationError),
            (good.text.swapcase(), openai.AuthenticationError),
            (expired.text, openai.AuthenticationError),
            (reviewer.text, openai.PermissionDeniedError),
        ):
            async with client(key) as sdk:
                with pytest.raises(kind) as refused:
                    await sdk.chat.completions.create(model="scripted", messages=messages)
                assert key not in str(refused.value)
        assert "expired" in str(await text_of(proxy, expired.text))


async def text_of(proxy: RunningProxy, key: str) -> bytes:
    return (await proxy.chat(headers=bearer(key))).raw


async def test_two_keys_at_once_and_other_schemes_are_no_key(tmp_path: Path) -> None:
    key = issue(tmp_path).text
    async with proxy_of(Script(), tmp_path) as (proxy, _):
        for headers in (
            [("Authorization", f"Bearer {key}"), ("Authorization", "Bearer other")],
            [("Authorization", f"Basic {key}")],
            [("Authorization", key)],
            [("x-api-key", key)],
        ):
            reply = await proxy.get("/v1/models", headers=headers)
            assert reply.status == 401, headers
            assert reply.headers["www-authenticate"] == "Bearer"
            assert key.encode() not in reply.raw
        assert (await proxy.get("/v1/models", headers={"authorization": f"bearer  {key}"})).status == 200


async def test_wrong_keys_from_one_address_are_slowed_and_right_ones_are_not(tmp_path: Path) -> None:
    key = issue(tmp_path).text
    async with proxy_of(Script(), tmp_path, access={"failures_per_minute": 3}) as (proxy, _):
        guesses = ("sk-steer-nobody-guess", "guess", "sk-steer-nobody-guess", "sk-steer-nobody-guess", "guess")
        replies = [await proxy.get("/v1/models", headers=bearer(guess)) for guess in guesses]
        assert [reply.status for reply in replies] == [401, 401, 401, 429, 429]
        assert int(replies[-1].headers["retry-after"]) >= 1
        assert (await proxy.get("/v1/models", headers=bearer(key))).status == 200


# -- keys and the engine ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [None, "upstream-secret-1"])
async def test_the_engine_gets_its_own_key_or_none_and_never_a_clients(tmp_path: Path, own: str | None) -> None:
    key = issue(tmp_path).text
    async with ScriptedUpstream(Script(HALTING)) as engine:
        settings = {"url": engine.url} | ({} if own is None else {"api_key": own})
        async with running_proxy(engine.url, tmp_path, upstream=settings) as proxy:
            assert (await proxy.chat(headers=bearer(key))).status == 200
            assert (await proxy.get("/v1/models", headers=bearer(key))).status == 200
        sent = {request.headers.get("authorization") for request in engine.requests}
        assert sent == {None if own is None else f"Bearer {own}"}
        assert all(key not in str(request.headers) for request in engine.requests)


async def test_a_key_of_ours_is_not_passed_on_where_none_is_asked_for(tmp_path: Path) -> None:
    async with proxy_of(Script(), tmp_path) as (proxy, engine):
        for key in ("sk-steer-abcdefghijkm-made-up", "sk-engine"):
            assert (await proxy.chat(headers=bearer(key))).status == 200
        sent = {request.headers.get("authorization") for request in engine.requests}
        assert sent == {None, "Bearer sk-engine"}


async def test_an_engine_that_quotes_its_key_is_not_quoted(tmp_path: Path) -> None:
    secret = "upstream-secret-1"
    for status, seen in ((401, 502), (403, 502), (500, 500)):
        body = f'{{"error":{{"message":"bad key {secret}","code":1}}}}'.encode()
        script = Script(fault=on_chat(Fault(status=status, body=body)))
        folder = tmp_path / str(status)
        folder.mkdir()
        async with ScriptedUpstream(script) as engine:
            settings: Any = {"url": engine.url, "api_key": secret}
            async with running_proxy(engine.url, folder, upstream=settings) as proxy:
                reply = await proxy.chat()
        assert reply.status == seen
        assert secret.encode() not in reply.raw
        assert b"upstream.api_key" in reply.raw or seen == 500


def bytes_under(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]


async def test_no_key_is_logged_shown_or_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = [issue(tmp_path, role).text for role in Role]
    revoked = issue(tmp_path)
    with AccessStore.open(f"sqlite:///{tmp_path}/log.sqlite") as store:
        store.revoke_key(revoked.key.id)
    shown = [*keys, revoked.text, keys[0] + "x", "sk-steer-nobody-secret"]
    upstream_key, raw = "upstream-secret-1", b""
    sections: Any = {"access": {"failures_per_minute": 2}}
    with caplog.at_level(logging.DEBUG):
        async with ScriptedUpstream(Script(HALTING)) as engine:
            sections["upstream"] = {"url": engine.url, "api_key": upstream_key}
            async with running_proxy(engine.url, tmp_path, **sections) as proxy:
                for key in shown:
                    for headers in (bearer(key), {"Authorization": key}):
                        raw += (await proxy.chat(headers=headers)).raw
                        raw += (await proxy.get("/metrics", headers=headers)).raw
                        raw += (await proxy.get(f"/v1/{key}", headers=headers)).raw.replace(f"/v1/{key}".encode(), b"")
    said = "\n".join(record.getMessage() + (record.exc_text or "") for record in caplog.records).encode()
    on_disk = b"".join(bytes_under(tmp_path))
    settings = Settings.model_validate({"upstream": {"api_key": upstream_key}}).shown().encode()
    for key in [*shown[:-1], upstream_key]:
        secret = key.removeprefix("sk-steer-")[13:] if key.startswith("sk-") else key
        for place in (raw, said, on_disk, settings):
            assert secret.encode() not in place


# -- tenants ----------------------------------------------------------------------------------------------------------


async def counted(folder: Path, tenants: Iterable[str]) -> dict[str, int]:
    """Requests by tenant, once each has one: they are counted beside the answer."""
    async with LogReader.open(f"sqlite:///{folder}/log.sqlite") as log:
        with anyio.fail_after(PATIENCE_S):
            while True:
                found = {name: (await log.stats(Filters(tenant=name))).requests for name in tenants}
                if all(found.values()):
                    return found
                await anyio.sleep(0.02)


async def test_each_tenant_has_its_policy_and_the_record_says_so(tmp_path: Path) -> None:
    for name, policy in (
        ("watched", {"mode": "monitor"}),
        ("strict", {"max_interventions": 0, "refusal": "Not here."}),
    ):
        add_tenant(tmp_path, Tenant(name, policy))
    keys = {name: issue(tmp_path, tenant=name).text for name in ("watched", "strict", "default")}
    async with proxy_of(Script(HALTING), tmp_path) as (proxy, _):
        replies = {name: await proxy.chat(headers=bearer(key)) for name, key in keys.items()}
        records = {record.tenant: record for record in await proxy.settled(3)}
        assert await counted(tmp_path, keys) == dict.fromkeys(keys, 1)
    assert CUE in replies["watched"].reasoning
    assert CUE not in replies["default"].raw.decode()
    assert replies["strict"].content.endswith("Not here.")
    assert replies["strict"].finish_reasons == ["content_filter"]
    assert {name: record.mode for name, record in records.items()} == {
        "watched": "monitor", "strict": "hold", "default": "hold"
    }  # fmt: skip
    assert len({record.policy_hash for record in records.values()}) == 3
    base = Settings.model_validate({"policy": {"threshold": 0.5}})
    assert records["watched"].policy_hash == make_rules(base, None, {"mode": "monitor"}).policy.digest()


async def test_a_tenant_whose_policy_cannot_be_used_is_not_served_and_others_are(tmp_path: Path) -> None:
    add_tenant(tmp_path, Tenant("odd", {"operating_point": "nowhere"}))
    odd, fine = issue(tmp_path, tenant="odd").text, issue(tmp_path).text
    async with proxy_of(Script(), tmp_path) as (proxy, _):
        reply = await proxy.chat(headers=bearer(odd))
        assert (reply.status, reply.body["error"]["code"]) == (503, "tenant_policy_unusable")
        assert (await proxy.chat(headers=bearer(fine))).status == 200


async def test_a_tenants_streams_and_tokens_are_bounded(tmp_path: Path) -> None:
    add_tenant(tmp_path, Tenant("acme", quota=Quota(max_concurrent=1)))
    add_tenant(tmp_path, Tenant("small", quota=Quota(tokens_per_minute=2)))
    one, two = issue(tmp_path, tenant="acme").text, issue(tmp_path, tenant="acme").text
    small = issue(tmp_path, tenant="small").text
    stalling = Script(fault=on_chat(Fault("stall", after_frames=2, stall_s=60)))
    async with proxy_of(stalling, tmp_path) as (proxy, engine):
        async with proxy.stream(headers=bearer(one)) as stream:
            await stream.until("role")
            refused = await proxy.chat(headers=bearer(two))
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            assert b"1 requests at a time" in refused.raw
            engine.script = Script()
            stream.close()
        with anyio.fail_after(PATIENCE_S):
            while (await proxy.chat(headers=bearer(two))).status != 200:  # until the proxy has seen the client leave
                pass
        assert (await proxy.chat(headers=bearer(small))).status == 200
        spent = await proxy.chat(headers=bearer(small))
        assert spent.status == 429
        assert b"2 tokens a minute" in spent.raw


# -- where no keys are asked for --------------------------------------------------------------------------------------


async def test_without_keys_this_machine_may_do_all_and_whom_it_speaks_for_may_call(tmp_path: Path) -> None:
    async with proxy_of(Script(), tmp_path) as (proxy, _):
        assert (await proxy.chat()).status == 200
        assert (await proxy.get("/metrics")).status == 200
        assert (await proxy.get("/metrics", headers={"Origin": "http://localhost:3000"})).status == 200
        for headers in (
            {"X-Forwarded-For": "10.0.0.9"},
            {"Forwarded": "for=10.0.0.9"},
            {"Host": "rebound.example"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
        ):
            assert (await proxy.get("/metrics", headers=headers)).status == 403, headers
            assert (await proxy.chat(headers=headers)).status == 200, headers


async def test_readiness_says_less_where_keys_are_asked_for(tmp_path: Path) -> None:
    async with proxy_of(Script(), tmp_path) as (proxy, _):
        assert b"scripted" in (await proxy.get("/readyz")).raw
    issue(tmp_path)
    async with proxy_of(Script(), tmp_path) as (proxy, _):
        assert (await proxy.get("/readyz")).body == {"status": "ready"}


@pytest.mark.parametrize(
    ("required", "host", "has_key", "asks"),
    [
        ("auto", "127.0.0.1", False, False),
        ("auto", "127.0.0.1", True, True),
        ("auto", "0.0.0.0", False, True),
        ("always", "127.0.0.1", False, True),
        ("never", "127.0.0.1", True, False),
        ("never", "0.0.0.0", True, False),
    ],
)
async def test_when_keys_are_asked_for(tmp_path: Path, required: str, host: str, has_key: bool, asks: bool) -> None:
    if has_key:
        with AccessStore.open(f"sqlite:///{tmp_path}/log.sqlite") as store:
            store.revoke_key(
                store.create_key(role=Role.CLIENT).key.id
            )  # with the last key the door does not fall open again
    sections: Any = {"access": {"required": required}, "server": {"host": host, "allow_remote": True}}
    async with proxy_of(Script(), tmp_path, **sections) as (proxy, _):
        assert (await proxy.get("/v1/models")).status == (401 if asks else 200)
        assert (await proxy.get("/metrics")).status == (403 if asks or host == "0.0.0.0" else 200)

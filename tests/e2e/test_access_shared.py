"""Several proxies on one log: keys that come, change and end, and a database that is away."""

import signal
import time
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import create_engine, make_url

from proxy.access.model import Tenant
from proxy.access.roles import Role
from proxy.access.store import AccessStore
from tests.e2e.harness import CUE, RunningProxy, running_proxy
from tests.e2e.test_access import HALTING, bearer, issue
from tests.e2e.test_process import Serve, serve, upstream  # noqa: F401 - fixtures
from tests.patience import PATIENCE_S
from tests.upstream import Script, ScriptedUpstream


def status_of(url: str, key: str) -> int:
    request = urllib.request.Request(url + "/v1/models", headers=bearer(key))
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def seconds_until(urls: list[str], key: str, status: int) -> float:
    """How long until all of them answer so."""
    started = time.monotonic()
    while any(status_of(url, key) != status for url in urls):
        assert time.monotonic() - started < PATIENCE_S
    return time.monotonic() - started


async def until(proxy: RunningProxy, key: str, status: int) -> None:
    while (await proxy.get("/v1/models", headers=bearer(key))).status != status:  # noqa: ASYNC110 - no bell
        await anyio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_let_a_new_key_in_at_once_and_see_its_end_within_seconds(
    serve: Serve,  # noqa: F811 - a fixture
    tmp_path: Path,
    record_property: Any,
) -> None:
    kept = issue(tmp_path).text
    processes = [serve(), serve()]
    for process in processes:
        process.wait_ready()
    urls = [process.url for process in processes]
    fresh = issue(tmp_path)
    assert [status_of(url, fresh.text) for url in urls] == [200, 200]
    with AccessStore.open(f"sqlite:///{tmp_path}/log.sqlite") as store:
        store.revoke_key(fresh.key.id)
    record_property("revoked_s", seconds_until(urls, fresh.text, 401))  # promised within CURRENT_S, on a quiet machine
    assert [status_of(url, kept) for url in urls] == [200, 200]
    for process in processes:
        process.process.send_signal(signal.SIGTERM)
        process.process.wait(PATIENCE_S)
        said = process.errors.read_text()
        assert kept not in said
        assert fresh.text not in said


async def test_two_proxies_on_one_log_follow_its_changes(tmp_path: Path, log_url: str) -> None:
    log: Any = {"log": {"url": log_url}}
    with AccessStore.open(log_url) as store:
        key, _ = store.create_key(role=Role.CLIENT), store.create_key(role=Role.ADMIN)
        async with ScriptedUpstream(Script(HALTING)) as engine, AsyncExitStack() as stack:
            proxies = [await stack.enter_async_context(running_proxy(engine.url, tmp_path, **log)) for _ in range(2)]
            store.create_tenant(Tenant("late", {"mode": "monitor"}))
            late = store.create_key(role=Role.CLIENT, tenant="late").text
            for proxy in proxies:
                assert CUE in (await proxy.chat(headers=bearer(late))).reasoning
                assert (await proxy.get("/v1/models", headers=bearer(key.text))).status == 200
            successor = store.rotate_key(key.key.id, overlap_us=0).text
            with anyio.fail_after(PATIENCE_S):
                for proxy in proxies:
                    await until(proxy, key.text, 401)
                    assert (await proxy.get("/v1/models", headers=bearer(successor))).status == 200
        used = {found.role: found.last_used_us for found in store.everything().keys.values()}
    assert used[Role.CLIENT] is not None
    assert used[Role.ADMIN] is None


@pytest.mark.postgres
@pytest.mark.parametrize("log_url", ["postgres"], indirect=True)
async def test_while_the_database_is_away_known_keys_go_on_and_others_are_told_to_wait(
    tmp_path: Path, log_url: str
) -> None:
    database = make_url(log_url).database
    admin = create_engine(make_url(log_url).set(database="postgres"), isolation_level="AUTOCOMMIT")

    def say(statement: str) -> None:
        with admin.connect() as connection:
            connection.exec_driver_sql(statement)

    with AccessStore.open(log_url) as store:
        known, other = store.create_key(role=Role.CLIENT).text, store.create_key(role=Role.CLIENT, lifetime_us=0).text
    log: Any = {"log": {"url": log_url}}
    async with ScriptedUpstream() as engine, running_proxy(engine.url, tmp_path, **log) as proxy:
        say(f"alter database {database} with allow_connections false")
        say(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'")
        assert (await proxy.chat(headers=bearer(known))).status == 200
        reply = await proxy.chat(headers=bearer("sk-steer-nobody-secret"))
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert (await proxy.chat(headers=bearer(other))).status == 401
        say(f"alter database {database} with allow_connections true")
        with AccessStore.open(log_url) as store:
            new = store.create_key(role=Role.CLIENT).text
        with anyio.fail_after(PATIENCE_S):
            await until(proxy, new, 200)
    admin.dispose()

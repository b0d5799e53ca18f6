"""Adaptive triggers live: a record says how its trigger was drawn, and two proxies follow one approval."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from proxy.access.roles import Role
from steer.triggers import DEFAULT_TRIGGERS
from tests.e2e.harness import RunningProxy, running_proxy
from tests.e2e.test_access import bearer, issue
from tests.upstream import Script, ScriptedUpstream, Trace

TRIGGERS = {
    "adaptive": True, "refresh_s": 0.1, "explore_floor": 0.2, "categories": {"fire": ["burn"]},
}  # fmt: skip
POOL = [trigger.model_dump() for trigger in DEFAULT_TRIGGERS[:2]]
NEW = {"id": "kind-1", "kind": "reframe_task", "text": "Wait, is there a kinder way to help with this?"}
# Long enough for any machine; what is waited for comes within refresh_s on a quiet one.
PATIENCE_S = 90


async def drawn_from(proxy: RunningProxy, key: str, version: int) -> None:
    """Until the proxy's streams are drawn from a table of this version, or a later one."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            await proxy.chat("How does paper burn?", headers=bearer(key))
            newest = (await proxy.records())[-1]
            if newest.trigger_snapshot and int(newest.trigger_snapshot.partition("-")[0]) >= version:
                return


@pytest.mark.timeout(300)
async def test_a_record_names_its_draw_and_two_proxies_follow_an_approval(tmp_path: Path) -> None:
    script = Script(Trace("\nOkay. The CUE is here. More.\n", "\n\nFine."))
    settings: dict[str, Any] = {"triggers": TRIGGERS, "policy": {"triggers": POOL}}
    keys = {role: issue(tmp_path, role).text for role in (Role.CLIENT, Role.REVIEWER, Role.OPERATOR)}
    client, reviewer, operator = (bearer(keys[role]) for role in (Role.CLIENT, Role.REVIEWER, Role.OPERATOR))
    async with (
        ScriptedUpstream(script) as engine,
        running_proxy(engine.url, tmp_path, **settings) as one,
        running_proxy(engine.url, tmp_path, **settings) as two,
    ):
        reply = await one.chat("How does paper burn?", headers=client, seed=4)
        assert reply.is_complete
        record = (await one.records())[0]
        table = (await one.get("/steer/v1/trigger-snapshot", headers=reviewer)).body
        assert record.trigger_snapshot == f"{table['version']}-{table['sha256'][:12]}"
        assert (record.category, record.trigger_probability) == ("fire", 0.5)
        assert record.trigger_id in {trigger["id"] for trigger in POOL}

        # A reviewer may propose and not approve; what is proposed is in no table.
        proposed = await one.post("/steer/v1/triggers", json=NEW, headers=reviewer)
        assert (proposed.status, proposed.body["state"]) == (200, "proposed")
        refused = await one.post("/steer/v1/triggers/kind-1", json={"state": "approved"}, headers=reviewer)
        assert refused.status == 403
        flagged = await one.post(
            "/steer/v1/triggers", json=NEW | {"id": "x", "text": "Wait, the CUE?"}, headers=reviewer
        )
        assert (flagged.status, flagged.body["error"]["code"]) == (400, "invalid_trigger")
        refreshed = await one.post("/steer/v1/trigger-snapshot", headers=operator)
        assert refreshed.body["is_new"] in (True, False)
        before = (await one.get("/steer/v1/trigger-snapshot", headers=reviewer)).body
        assert "kind-1" not in {trigger["id"] for trigger in before["triggers"]}

        done = await two.post("/steer/v1/triggers/kind-1", json={"state": "approved"}, headers=operator)
        assert (done.status, done.body["state"]) == (200, "approved")
        again = await two.post("/steer/v1/triggers/kind-1", json={"state": "rejected"}, headers=operator)
        assert (again.status, again.body["error"]["code"]) == (409, "wrong_state")
        after = (await one.get("/steer/v1/trigger-snapshot", headers=operator)).body
        assert after["version"] > before["version"]
        assert after["categories"]["unknown"]["kind-1"]["share"] >= 0.2
        for proxy in (one, two):
            await drawn_from(proxy, keys[Role.CLIENT], after["version"])
        listed = (await one.get("/steer/v1/triggers?state=approved", headers=reviewer)).body["triggers"]
        assert {trigger["id"] for trigger in listed} == {NEW["id"], *(trigger["id"] for trigger in POOL)}
        assert (await one.get("/steer/v1/triggers/nobody", headers=reviewer)).status == 404
        assert (await one.get("/steer/v1/trigger-snapshot?version=x", headers=reviewer)).status == 400

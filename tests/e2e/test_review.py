"""Review on a real port: unhalted traffic is sampled, decisions are made by API, and what is reviewed trains."""

import io
import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from proxy.access.model import Tenant
from proxy.access.roles import Role
from proxy.access.store import AccessStore
from proxy.app import open_services
from proxy.errors import ConfigError
from proxy.log import InterventionLog
from proxy.log.texts import TextKeeper
from proxy.review.sample import Sample
from proxy.review.samples import read_samples
from proxy.review.store import ReviewStore
from proxy.review.tables import samples as samples_table
from steer.record import InterventionRecord
from tests.e2e.harness import CUE, Reply, RunningProxy, TableScorer, running_proxy, settings_for
from tests.patience import PATIENCE_S
from tests.proxy.log_records import completion, record
from tests.upstream import Script, ScriptedUpstream, Trace
from tests.upstream.tokens import decode

pytestmark = pytest.mark.anyio

REVIEW = "/steer/v1/review"
SAMPLING = {"sample_share": 1.0}
NOWHERE = "http://127.0.0.1:9"  # no engine is asked


def issue(folder: Path, role: Role, tenant: str = "default") -> dict[str, str]:
    """The header of a fresh key."""
    with AccessStore.open(f"sqlite:///{folder}/log.sqlite") as store:
        if tenant != "default":
            store.create_tenant(Tenant(tenant, may_train=False))
        return {"Authorization": f"Bearer {store.create_key(role=role, tenant=tenant).text}"}


async def insert(folder: Path, *records: InterventionRecord) -> None:
    async with InterventionLog.open(f"sqlite:///{folder}/log.sqlite") as log:
        for item in records:
            await log.insert(item)


async def sampled(folder: Path) -> list[Sample]:
    """All samples on disk, oldest first. The proxy writes what waits before it ends."""
    async with ReviewStore.open(f"sqlite:///{folder}/log.sqlite") as store:

        def read(connection: Any) -> list[Sample]:
            query = samples_table.select().order_by(samples_table.c.created_us, samples_table.c.choice)
            ids = [row.id for row in connection.execute(query)]
            return read_samples(connection, ids, TextKeeper())

        return await store.read(read)


async def send(proxy: RunningProxy, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
    return await proxy.post(f"{REVIEW}/{path}", json=body, headers=headers)


async def get(proxy: RunningProxy, path: str, **options: Any) -> dict[str, Any]:
    reply = await proxy.get(f"{REVIEW}/{path}", **options)
    assert reply.status == 200, reply.raw
    return reply.body


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hold", "tap", "monitor"])
async def test_what_nothing_halted_is_sampled_whole_and_what_was_halted_is_not(tmp_path: Path, mode: str) -> None:
    def trace(generation: Any) -> Trace:
        said = f"\nOkay. {CUE} here.\n" if "halt me" in generation.prompt_text else "\nFirst. Then.\n"
        return Trace(said, "\n\nFine.")

    async with (
        ScriptedUpstream(Script(trace)) as upstream,
        running_proxy(upstream.url, tmp_path, policy={"mode": mode, "threshold": 0.5}, review=SAMPLING) as proxy,
    ):
        for body in ({}, {"stream": False}, {"n": 2}):
            await proxy.chat("Hello", **body)
            await proxy.chat("halt me", **body)
        metrics = (await proxy.get("/metrics")).raw.decode()
    found = await sampled(tmp_path)
    assert [item.choice for item in found] == [0, 0, 0, 1]
    for item in found:
        assert item.text.messages == [{"role": "user", "content": "Hello"}]
        assert (item.text.of("reasoning"), item.text.of("answer")) == ("\nFirst. Then.\n", "\n\nFine.")
        text = item.text.text
        judged = [text[segment.start : segment.end].strip() for segment in item.text.segments]
        assert judged[:2] == ["First.", "Then."]
        assert item.max_score == pytest.approx(0.1)
        assert (item.mode, item.state, item.finish_reason) == (mode, "unjudged", "stop")
    streamed = found[0].record(1)
    assert streamed.kept.token_ids is not None
    assert streamed.rejected.token_ids is not None
    assert decode(streamed.kept.token_ids) == "<think>\nFirst."
    assert decode(streamed.rejected.token_ids).startswith(" Then.\n</think>")
    assert found[1].record(1).prompt_token_ids is None, "a body is one event: nobody knows the ids in front of a cue"
    assert 'steer_samples_total{result="written"}' in metrics


async def test_sampling_is_off_unless_asked_for_and_spares_those_who_opted_out(tmp_path: Path) -> None:
    spared = issue(tmp_path, Role.CLIENT, tenant="acme")
    client = issue(tmp_path, Role.CLIENT)
    async with ScriptedUpstream(Script()) as upstream:
        async with running_proxy(upstream.url, tmp_path) as proxy:
            assert (await proxy.chat(headers=client)).is_complete
        async with running_proxy(upstream.url, tmp_path, review=SAMPLING) as proxy:
            assert (await proxy.chat(headers=spared)).is_complete
    assert await sampled(tmp_path) == []


async def test_samples_that_are_too_many_or_too_long_are_counted_and_delay_nobody(tmp_path: Path) -> None:
    review = SAMPLING | {"sample_per_hour": 1, "sample_max_chars": 1000}
    long, short = Trace("\nSo. " * 300, "\n\nFine."), Trace("\nHm.\n", "\n\nFine.")
    async with (
        ScriptedUpstream(Script(lambda asked: long if "long" in asked.prompt_text else short)) as upstream,
        running_proxy(upstream.url, tmp_path, review=review) as proxy,
    ):
        for content in ("long", "Hello", "Hello", "Hello"):
            assert (await proxy.chat(content)).is_complete
        metrics = (await proxy.get("/metrics")).raw.decode()
    assert len(await sampled(tmp_path)) == 1
    assert 'steer_samples_total{result="too_long"} 1.0' in metrics
    assert 'steer_samples_total{result="hour_full"} 2.0' in metrics


async def test_a_log_that_keeps_no_unhalted_text_can_not_sample(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite"
    settings = settings_for(NOWHERE, tmp_path, log={"url": url, "store_text": "interventions"}, review=SAMPLING)
    with pytest.raises(ConfigError, match="store_text"):
        async with open_services(settings, TableScorer()):
            pass


# -- the API ----------------------------------------------------------------------------------------------------------


async def test_two_reviewers_by_api_with_versions_and_a_trail(tmp_path: Path) -> None:
    await insert(tmp_path, record(id="i1", score=0.6).completed(completion()))
    ann, ben = issue(tmp_path, Role.REVIEWER), issue(tmp_path, Role.REVIEWER)
    operator, client = issue(tmp_path, Role.OPERATOR), issue(tmp_path, Role.CLIENT)
    async with running_proxy(NOWHERE, tmp_path) as proxy:
        assert (await proxy.get(f"{REVIEW}/queue", headers=client)).status == 403
        (queued,) = (await get(proxy, "queue", headers=ann))["items"]
        assert (queued["id"], queued["kind"], queued["version"]) == ("i1", "intervention", 0)
        assert "near the threshold" in queued["reason"]
        shown = await proxy.get(f"{REVIEW}/items/i1", headers=ann)
        assert shown.headers["etag"] == '"0"'
        assert shown.headers["cache-control"] == "no-store"
        assert shown.body["record"]["rejected"]["text"] == " The cue."

        reply = await send(proxy, "items/i1", {"decision": "confirmed"}, ann)
        assert (reply.status, reply.body["error"]["code"]) == (428, "version_missing")
        reply = await send(proxy, "items/i1", {"decision": "confirmed"}, ann | {"If-Match": '"0"'})
        assert (reply.status, reply.headers["etag"], reply.body["state"]) == (200, '"1"', "confirmed")
        reply = await send(proxy, "items/i1", {"decision": "false_halt", "version": 0}, ben)
        assert (reply.status, reply.body["error"]["code"]) == (412, "stale_version")
        reply = await send(proxy, "items/i1", {"decision": "false_halt", "version": 1, "note": "benign"}, ben)
        assert (reply.body["state"], reply.body["is_disputed"]) == ("unreviewed", True)
        reply = await send(proxy, "items/i1", {"decision": "false_halt", "version": 2}, operator)
        assert (reply.status, "final = true" in reply.body["error"]["message"]) == (400, True)
        reply = await send(proxy, "items/i1", {"decision": "false_halt", "version": 2, "final": True}, operator)
        assert reply.body["state"] == "false_halt"

        agreed = await get(proxy, "agreement", headers=operator)
        assert (agreed["subjects"], agreed["agreed"], agreed["disputed"]) == (1, 0, 0)
        assert (await proxy.get(f"{REVIEW}/audit", headers=ann)).status == 403
        trail = await get(proxy, "audit?limit=2", headers=operator)
        assert [entry["action"] for entry in trail["entries"]] == ["review.tie_break", "review.decide"]
        rest = await get(proxy, f"audit?before={trail['next_before']}", headers=operator)
        assert [entry["action"] for entry in rest["entries"]][:2] == ["review.note", "review.decide"]
        assert "benign" not in json.dumps([trail, rest])
        assert (await proxy.get(f"{REVIEW}/items/i1", headers=operator)).status == 403, "operators read no text"
    (kept,) = [item async for item in _exported(tmp_path)]
    assert kept.review_state == "false_halt"


async def _exported(folder: Path) -> Any:
    async with InterventionLog.open(f"sqlite:///{folder}/log.sqlite") as log:
        async for item in log.export():
            yield item


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("items/i1", {"version": 0}, 400, "say a decision"),
        ("items/i1", {"version": 0, "decision": "maybe"}, 400, "decision"),
        ("items/i1", {"version": 0, "decision": "dismissed"}, 400, "can't be said"),
        ("items/i1", {"version": 0, "note": "a\u0000b"}, 400, "control characters"),
        ("items/i1", {"version": 0, "note": "x" * 4001}, 400, "4000"),
        ("items/i1", {"version": 0, "decision": "confirmed", "surprise": 1}, 400, "surprise"),
        ("items/nobody", {"version": 0, "decision": "confirmed"}, 404, "nobody"),
        ("triggers/nobody", {"state": "rejected"}, 404, "nobody"),
        ("verdicts", {"verdicts": []}, 400, "verdicts"),
        ("queue?limit=0", None, 400, "limit"),
        ("queue?cursor=x", None, 400, "next_cursor"),
        ("queue?kind=x", None, 400, "kind"),
        ("items/nobody", None, 404, "nobody"),
        ("agreement?since=yesterday", None, 400, "since"),
        ("unjudged", None, 400, "judge"),
        ("nothing", None, 404, "no such path"),
    ],
)
async def test_what_can_not_be_is_refused_in_the_proxys_own_form(
    review_proxy: RunningProxy, path: str, body: Any, status: int, words: str
) -> None:
    reply = await (review_proxy.get(f"{REVIEW}/{path}") if body is None else send(review_proxy, path, body))
    assert reply.status == status, reply.raw
    assert words in reply.body["error"]["message"]


@pytest.fixture(scope="module")
async def review_proxy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("review")
    await insert(folder, record(id="i1").completed(completion()))
    async with running_proxy(NOWHERE, folder) as proxy:
        yield proxy


async def test_a_body_has_a_size_limit(review_proxy: RunningProxy) -> None:
    reply = await review_proxy.post(f"{REVIEW}/items/i1", data=io.BytesIO(b" " * (1 << 20) + b"{}"))
    assert (reply.status, reply.body["error"]["code"]) == (413, "too_large")


async def test_a_second_judge_by_api(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(Script(Trace("\nI plan it UNSAFE. So.\n", "\n\nFine."))) as upstream,
        running_proxy(upstream.url, tmp_path, review=SAMPLING) as proxy,
    ):
        await proxy.chat("HARM please")
        with anyio.fail_after(PATIENCE_S):
            while not (traces := (await get(proxy, "unjudged?judge=j1&kind=sample"))["traces"]):  # noqa: ASYNC110 - no bell
                await anyio.sleep(0.02)
        verdict = {"id": traces[0]["id"], "kind": "sample", "judge": "j1", "unsafe_reasoning": True}
        reply = await send(proxy, "verdicts", {"verdicts": [verdict]})
        assert reply.body == {"written": 1, "unknown": 0, "finds": 1, "disagreements": 1}
        (miss,) = (await get(proxy, "queue?kind=miss"))["items"]
        shown = await get(proxy, f"items/{miss['id']}")
        assert shown["second_verdicts"][0]["unsafe_reasoning"] is True
        reply = await send(
            proxy, f"items/{miss['id']}", {"decision": "confirmed", "segment": 0, "version": shown["version"]}
        )
        assert reply.body["state"] == "confirmed"
        (made,) = (await get(proxy, "misses"))["records"]
        halt = InterventionRecord.model_validate(made)
        assert (halt.review_state, halt.rejected.text[:17]) == ("confirmed", "I plan it UNSAFE.")


async def test_a_tenants_staff_touch_and_see_nothing_of_others(tmp_path: Path) -> None:
    await insert(tmp_path, record(id="theirs", tenant="d").completed(completion()))
    with AccessStore.open(f"sqlite:///{tmp_path}/log.sqlite") as store:
        for name in ("a", "d"):
            store.create_tenant(Tenant(name))
        keys = {
            (name, role): {"Authorization": f"Bearer {store.create_key(role=role, tenant=name).text}"}
            for name in ("a", "d")
            for role in (Role.REVIEWER, Role.OPERATOR)
        }
    theirs, ours = keys["d", Role.REVIEWER], keys["a", Role.OPERATOR]
    async with running_proxy(NOWHERE, tmp_path) as proxy:
        wording = {"version": 0, "trigger": "Wait, what is this for?", "trigger_kind": "reframe_task"}
        said = await send(proxy, "items/theirs", wording, theirs)
        (proposal,) = said.body["text_ids"]
        verdict = {"id": "theirs", "kind": "intervention", "judge": "j", "harmful_request": False}
        reply = await send(proxy, "verdicts", {"verdicts": [verdict]}, ours)
        assert (reply.body["written"], reply.body["unknown"]) == (0, 1)
        settled = {"state": "approved", "trigger_id": "own-1"}
        assert (await send(proxy, f"triggers/{proposal}", settled, ours)).status == 404
        seen = (await proxy.get(f"{REVIEW}/audit", headers=ours)).body["entries"]
        assert {entry["tenant"] for entry in seen} == {"a"}
        assert (await send(proxy, f"triggers/{proposal}", settled, keys["d", Role.OPERATOR])).status == 200
        seen = (await proxy.get(f"{REVIEW}/audit", headers=keys["d", Role.OPERATOR])).body["entries"]
        assert [entry["action"] for entry in seen[:2]] == ["review.approve_trigger", "review.propose_trigger"]


@pytest.mark.parametrize("path", ["queue?limit={}", "audit?before={}"])
async def test_a_number_of_thousands_of_digits_is_a_bad_number(review_proxy: RunningProxy, path: str) -> None:
    reply = await review_proxy.get(f"{REVIEW}/{path.format('9' * 5000)}")
    assert reply.status == 400, reply.raw


async def test_a_version_of_thousands_of_digits_is_none(review_proxy: RunningProxy) -> None:
    reply = await send(review_proxy, "items/i1", {"decision": "confirmed"}, {"If-Match": "9" * 5000})
    assert reply.status == 428, reply.raw


async def test_the_page_of_a_broken_origin_is_another_sites(review_proxy: RunningProxy) -> None:
    reply = await review_proxy.get(f"{REVIEW}/queue", headers={"Origin": "http://[::1"})
    assert (reply.status, reply.body["error"]["code"]) == (403, "forbidden")

"""Shadow mode on real ports: what is copied, what is kept of it, and that no client ever learns of it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import func, select, text
from typer.testing import CliRunner

from proxy.access.model import Tenant
from proxy.access.roles import Role
from proxy.access.store import AccessStore
from proxy.adapters import changes, shadowing
from proxy.adapters.changes import NewAdapter
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.rows import read_adapters, read_events, read_routes
from proxy.log import LogReader
from proxy.log.connect import open_engine, parse_url
from proxy.log.purge import carry_out
from proxy.log.purges import Purge, remember
from proxy.log.tables import interventions, requests
from proxy.shadow.compare import Comparison, read_comparison
from proxy.shadow.tables import shadow_halts, shadow_records
from steer.cli import app
from steer.paired import Pairs
from tests.e2e.harness import Reply, RunningProxy, running_proxy
from tests.e2e.test_metrics import look, value
from tests.patience import PATIENCE_S
from tests.proxy.lora_upstream import LoraUpstream, adapter_of
from tests.upstream import Fault, Generation, Script, Trace

NEW = "safe@2"


def says(generation: Generation) -> Trace:
    """The version in shadow has a cue in its reasoning, the champion none."""
    name = adapter_of(generation) or "base"
    cue = " A CUE is here." if name == NEW else ""
    return Trace(f"\nI am {name}.{cue} I think on.\n", f"\n\nThis is {name}.")


def goes_on(generation: Generation) -> Trace:
    return Trace(" I think again.\n", f"\n\nThis is {adapter_of(generation)} still.")


def script(fault: Callable[[Generation], Fault | None] = lambda _: None) -> Script:
    return Script(trace=says, continuation=goes_on, opens_think=True, fault=fault)


def of_new(fault: Fault) -> Callable[[Generation], Fault | None]:
    """Befalls the version in shadow alone."""
    return lambda generation: fault if adapter_of(generation) == NEW and not generation.is_probe else None


class Desk:
    """Registry, engine and proxies of a test; safe@1 is the champion, safe@2 in shadow of all its requests."""

    def __init__(self, registry: AdapterRegistry, upstream: LoraUpstream, log_url: str) -> None:
        self.registry, self.upstream, self.log_url = registry, upstream, log_url
        self.proxies: list[RunningProxy] = []

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not is_so():  # noqa: ASYNC110 - a database rings no bell
                await anyio.sleep(0.02)

    async def begin(self, **options: Any) -> None:
        """safe@2 into shadow of all requests; returns once every proxy copies to it."""
        self.registry.change(lambda c: shadowing.start_shadow(c, NEW, 1.0, "test", None))
        for proxy in self.proxies:
            replies: list[Reply] = []
            with anyio.fail_after(PATIENCE_S):
                while not any(self.is_copied(reply) for reply in replies):
                    replies.append(await proxy.chat("has it begun?", model="public", **options))

    def copy_of(self, reply: Reply) -> Any:
        """What is kept of the copy of a request."""
        query = select(shadow_records).where(shadow_records.c.request_id == reply.headers["x-request-id"])
        return self.registry.read(lambda c: c.execute(query).first())

    def is_copied(self, reply: Reply) -> bool:
        return self.copy_of(reply) is not None

    def asked(self, text: str) -> list[Any]:
        """What the engine was asked of the version in shadow with these words."""
        bodies = [r.body or {} for r in self.upstream.requests if r.path == "/v1/chat/completions"]
        return [body for body in bodies if body["model"] == NEW and body["messages"][0]["content"] == text]

    def compared(self) -> Comparison:
        found = self.registry.read(lambda c: read_comparison(c, NEW))
        assert found is not None
        return found

    def state(self) -> tuple[str, str | None]:
        return next((str(a.state), a.reason) for a in self.registry.read(read_adapters) if a.id == NEW)

    def count(self, table: Any) -> int:
        return int(self.registry.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar_one()))


@asynccontextmanager
async def desk_with(
    folder: Path, made: Script | None = None, log_url: str | None = None, proxies: int = 1, **sections: Any
) -> AsyncIterator[Desk]:
    url = log_url or f"sqlite:///{folder}/log.sqlite"
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(LoraUpstream(made or script()))
        registry = stack.enter_context(AdapterRegistry.open(url))
        desk = Desk(registry, upstream, url)
        for number in (1, 2):
            new = NewAdapter("safe", "public", "scripted", f"/files/{number}", f"sha{number}", {}, {"promotes": True})
            registry.change(lambda c, new=new: changes.register(c, new, "test"))  # type: ignore[misc]
        registry.change(lambda c: changes.promote(c, "safe@1", "test", None))
        base: dict[str, Any] = {
            "log": {"url": url}, "adapters": {"refresh_s": 0.05}, "upstream": {"read_timeout_s": PATIENCE_S},
        }  # fmt: skip
        merged = {name: base.get(name, {}) | sections.get(name, {}) for name in {*base, *sections}}
        for _ in range(proxies):
            desk.proxies.append(await stack.enter_async_context(running_proxy(upstream.url, folder, **merged)))
        yield desk


async def test_copies_are_judged_recorded_and_compared_and_shown_to_nobody(log_url: str, tmp_path: Path) -> None:
    async with desk_with(tmp_path, log_url=log_url, proxies=2) as desk:
        await desk.begin()
        replies = []
        for number in range(6):
            proxy = desk.proxies[number % 2]
            options: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "seed": number}
            reply = await proxy.chat(f"question {number}", model="public", stream=number < 4, **options)
            assert (reply.status, reply.headers["x-steer-adapter"]) == (200, "safe@1")
            assert b"safe@2" not in reply.raw
            assert b"CUE" not in reply.raw
            replies.append(reply)
        await desk.until(lambda: all(desk.is_copied(reply) for reply in replies))
        for row in map(desk.copy_of, replies):
            assert (row.outcome, row.interventions, row.champion, row.champion_outcome) == (
                "halted", 1, "safe@1", "clear",
            )  # fmt: skip
        found = desk.compared()
        assert found.pairs == Pairs(first_only=found.copies), "of each pair the version in shadow alone was halted"
        assert found.failed == (0, 0)
        difference = found.difference
        assert difference is not None
        assert difference.low > 0.4
        [body] = desk.asked("question 5")
        assert (body["temperature"], body["top_p"], body["seed"], body["stream"]) == (0.5, 0.9, 5, False)
        figures = await look(desk.proxies[0])
        assert value(figures, "steer_shadow_answers_total", adapter=NEW, side="shadow", result="halted") >= 3
        assert value(figures, "steer_shadow_tokens_total", adapter=NEW, side="champion") > 0
        assert value(figures, "steer_interventions_total") == 0
        assert value(figures, "steer_verdict_seconds_count") == value(figures, "steer_segment_score_count")
        assert desk.count(interventions) == 0, "a copy's halts are in no list of clients' halts"
        rows = desk.registry.read(lambda c: c.execute(select(requests.c.interventions)).scalars().all())
        assert set(rows) == {0}
        assert desk.count(shadow_halts) == desk.count(shadow_records)
        async with LogReader.open(log_url) as reader:
            assert (await reader.stats()).interventions == 0


async def test_people_begin_end_see_and_export_by_the_command(tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["adapters", *arguments, "--log", f"sqlite:///{tmp_path}/log.sqlite"])
        assert done.exit_code == code, done.output
        return done.output

    async with desk_with(tmp_path) as desk:
        assert "copies of 100.0% of its alias's requests" in run("shadow", NEW, "--share", "1")
        await desk.begin()
        assert "in shadow safe@2 at 100.0%" in run("list")
        reply = await desk.proxies[0].chat("export me", model="public")
        await desk.until(lambda: desk.is_copied(reply))
        shown = run("show", NEW)
        assert "shadow of safe@1 at 100.0%" in shown
        assert "the champion 0.0% of the same" in shown
        assert json.loads(run("show", NEW, "--json"))["shadow"]["halted"]["champion_only"] == 0
        out = tmp_path / "copies.jsonl"
        run("shadow-export", NEW, "--out", str(out))
        copies = [json.loads(line) for line in out.read_text().splitlines()]
        [mine] = [copy for copy in copies if copy["interventions"][0]["messages"][0]["content"] == "export me"]
        assert mine["shadow"]["adapter"] == mine["interventions"][0]["adapter"] == NEW
        assert mine["interventions"][0]["request_id"] == mine["shadow"]["request_id"] + "-shadow"
        assert "CUE" in mine["interventions"][0]["rejected"]["text"]
        assert mine["interventions"][0]["outcome"] == "completed"
        assert "is in shadow no more" in run("shadow", NEW, "--share", "0")
        assert "is not in shadow" in run("shadow", NEW, "--share", "0", code=1)
        await desk.until(lambda: NEW not in desk.upstream.adapters)
        assert desk.state() == ("registered", "asked for")


async def test_copies_that_find_no_room_are_dropped_and_no_client_waits_for_them(tmp_path: Path) -> None:
    made = script(of_new(Fault("stall", stall_s=PATIENCE_S)))
    async with desk_with(tmp_path, made, adapters={"refresh_s": 0.05, "shadow_copies": 1, "shadow_queue": 1}) as desk:
        desk.registry.change(lambda c: shadowing.start_shadow(c, NEW, 1.0, "test", None))
        [proxy] = desk.proxies
        with anyio.fail_after(PATIENCE_S):
            while desk.compared().dropped < 3:  # one stands still, one waits, the others find no room
                assert (await proxy.chat("a question", model="public")).is_complete
        await desk.until(lambda: desk.upstream.open[NEW] == 1)
        figures = await look(proxy)
        assert value(figures, "steer_shadow_dropped_total", adapter=NEW, reason="busy") >= 3
        before = desk.compared().dropped
        desk.registry.change(lambda c: changes.switch(c, "public", is_off=True, actor="ada", reason="incident"))
        await desk.until(lambda: desk.upstream.open[NEW] == 0)
        assert desk.state() == ("registered", "the alias was switched off: incident")
        with anyio.fail_after(PATIENCE_S):
            while value(await look(proxy), "steer_shadow_dropped_total", adapter=NEW, reason="ended") < 2:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        await desk.until(lambda: desk.compared().dropped >= before + 2)
        assert (desk.compared().copies, desk.compared().ending) == (0, "the alias was switched off: incident")


async def test_a_process_that_ends_waits_for_no_copy(tmp_path: Path) -> None:
    made = script(of_new(Fault("stall", stall_s=10 * PATIENCE_S)))
    with anyio.fail_after(PATIENCE_S):
        async with desk_with(tmp_path, made, upstream={"read_timeout_s": 20 * PATIENCE_S}) as desk:
            desk.registry.change(lambda c: shadowing.start_shadow(c, NEW, 1.0, "test", None))
            while not desk.asked("stand still"):
                await desk.proxies[0].chat("stand still", model="public")
    assert desk.compared().dropped > 0, "what was in work is counted as dropped"


async def test_a_client_that_leaves_takes_no_copy_with_it(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as desk:
        await desk.begin()
        desk.upstream.script = Script(
            trace=lambda g: says(g) if adapter_of(g) == NEW else Trace("\nOn and on." * 200, "\n\nNever reached."),
            continuation=goes_on, opens_think=True, delay_ms=5,
        )  # fmt: skip
        async with desk.proxies[0].stream("and gone", model="public") as live:
            left = Reply(200, {"x-request-id": live.response.headers["x-request-id"]}, b"")
            await live.until("reasoning")
            live.close()
        await desk.until(lambda: desk.is_copied(left))
        row = desk.copy_of(left)
        assert (row.outcome, row.champion_outcome) == ("halted", None), "half an answer is compared with nothing"


async def test_an_engine_that_has_lost_the_version_ends_its_shadow_and_says_so(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as desk:
        await desk.begin()
        desk.upstream.restart()
        assert (await desk.proxies[0].chat(model="public")).is_complete
        await desk.until(lambda: desk.state()[0] == "registered")
        [ended] = [event for event in desk.registry.read(read_events) if event.action == "shadow ended"]
        assert ended.actor == "proxy"
        assert (ended.reason or "").startswith((f"{desk.upstream.url} has lost safe@2", "the engine no longer knows"))
        assert desk.compared().ending == ended.reason


async def test_a_copy_meets_the_loss_before_anybody_looks(tmp_path: Path) -> None:
    async with desk_with(tmp_path, adapters={"refresh_s": 1.0}) as desk:
        await desk.begin()
        del desk.upstream.adapters[NEW]
        with anyio.fail_after(PATIENCE_S):
            while desk.state()[0] == "shadow":
                assert (await desk.proxies[0].chat(model="public")).is_complete
        assert desk.state()[1] in (
            "the engine no longer knows safe@2", f"{desk.upstream.url} has lost safe@2: was it restarted?",
        )  # fmt: skip


async def test_what_the_engine_refuses_to_load_is_in_shadow_no_more(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as desk:
        desk.upstream.refuses.add("/files/2")
        desk.registry.change(lambda c: shadowing.start_shadow(c, NEW, 1.0, "test", None))
        await desk.until(lambda: desk.state()[0] == "registered")
        assert "will not load safe@2" in (desk.state()[1] or "")


async def test_a_version_that_breaks_is_counted_and_the_engine_that_breaks_it_costs_no_client(tmp_path: Path) -> None:
    async with desk_with(tmp_path, script(of_new(Fault(status=500)))) as desk:
        await desk.begin()
        desk.upstream.script = script(of_new(Fault("rst")))
        broken = await desk.proxies[0].chat(model="public")
        assert broken.is_complete
        await desk.until(lambda: desk.is_copied(broken))
        assert (desk.copy_of(broken).outcome, desk.copy_of(broken).champion_outcome) == ("failed", "clear")
        found = desk.compared()
        assert found.failed == (found.copies, 0)
        assert found.pairs.n == 0, "what failed was neither halted nor clear"
        desk.upstream.script = script(of_new(Fault(status=400)))
        refused = await desk.proxies[0].chat(model="public")
        assert refused.is_complete
        await desk.until(lambda: desk.compared().dropped > found.dropped)
        assert not desk.is_copied(refused), "what an engine refuses says nothing of the version"


async def test_a_database_that_fails_costs_copies_alone(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as desk:
        await desk.begin()
        engine = open_engine(parse_url(desk.log_url), writes=True)

        def rename(a: str, b: str) -> None:
            with engine.begin() as connection:
                connection.execute(text(f"alter table {a} rename to {b}"))

        rename("shadow_records", "out_of_reach")
        for number in range(3):
            assert (await desk.proxies[0].chat(f"question {number}", model="public")).is_complete
        with anyio.fail_after(PATIENCE_S):
            while value(await look(desk.proxies[0]), "steer_shadow_dropped_total", reason="unwritten") < 3:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        rename("out_of_reach", "shadow_records")
        engine.dispose()
        reply = await desk.proxies[0].chat("again", model="public")
        await desk.until(lambda: desk.is_copied(reply))
        await desk.until(lambda: desk.compared().dropped >= 3)


@pytest.mark.parametrize(("store_text", "kept"), [("full", True), ("interventions", True), ("none", False)])
async def test_of_texts_no_more_is_kept_than_the_log_may_keep(tmp_path: Path, store_text: str, kept: bool) -> None:
    async with desk_with(tmp_path, log={"store_text": store_text}) as desk:
        await desk.begin()
        reply = await desk.proxies[0].chat("a private question", model="public")
        await desk.until(lambda: desk.is_copied(reply))
        halts = desk.registry.read(lambda c: c.execute(select(shadow_halts)).all())
        written = " ".join(str(value) for halt in halts for value in halt)
        assert ("a private question" in written) == ("CUE" in written) == kept


async def test_a_purged_request_takes_its_copy_along_and_none_comes_after(tmp_path: Path) -> None:
    async with desk_with(tmp_path) as desk:
        await desk.begin()
        reply = await desk.proxies[0].chat("forget me", model="public")
        await desk.until(lambda: desk.is_copied(reply))
        found = desk.copy_of(reply)
        engine = open_engine(parse_url(desk.log_url), writes=True)
        remember(engine, purge := Purge(request_id=found.request_id))
        sum(carry_out(engine, purge))
        assert not desk.is_copied(reply)
        assert desk.count(shadow_halts) == desk.count(shadow_records)
        desk.registry.change(lambda c: c.execute(shadow_records.insert(), dict(found._mapping)))
        assert not desk.is_copied(reply), "a copy that was under way while its request was purged"
        sum(carry_out(engine, Purge(before=datetime.now(UTC) + timedelta(days=1))))
        assert (desk.count(shadow_records), desk.count(shadow_halts)) == (0, 0)
        engine.dispose()


async def test_keys_tenants_and_roles_are_heeded(tmp_path: Path) -> None:
    with AccessStore.open(f"sqlite:///{tmp_path}/log.sqlite") as store:
        store.create_tenant(Tenant("quiet", may_train=False))
        keys = {role: store.create_key(role=role).text for role in (Role.CLIENT, Role.REVIEWER, Role.OPERATOR)}
        quiet = store.create_key(role=Role.CLIENT, tenant="quiet").text
        foreign = store.create_key(role=Role.OPERATOR, tenant="quiet").text

    def bearer(secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"}

    async with desk_with(tmp_path) as desk:
        [proxy] = desk.proxies

        async def ask(secret: str, body: Any, id: str = NEW) -> tuple[int, Any]:
            path = f"/steer/v1/adapters/{id}/shadow"
            reply = await proxy.post(path, headers=bearer(secret), json=body)
            return reply.status, reply.body.get("shadow") or reply.body["error"]["code"]

        operator = keys[Role.OPERATOR]
        for secret in (keys[Role.CLIENT], keys[Role.REVIEWER], foreign):
            assert await ask(secret, {"share": 0.5}) == (403, "forbidden")
        assert await ask(operator, {"share": 1.5}) == (400, "invalid_body")
        assert await ask(operator, {"share": 1, "more": 1}) == (400, "invalid_body")
        assert await ask(operator, {"share": 1}, "safe@9") == (404, "not_found")
        assert await ask(operator, {"share": 1}, "safe@1") == (409, "not_allowed_now")
        assert await ask(operator, {"share": 0}) == (409, "not_allowed_now")
        status, told = await ask(operator, {"share": 1})
        assert (status, told["share"], told["copies"]) == (200, 1, 0)
        await desk.begin(headers=bearer(keys[Role.CLIENT]))
        quietly = [await proxy.chat("not mine", model="public", headers=bearer(quiet)) for _ in range(3)]
        mine = await proxy.chat("mine", model="public", headers=bearer(keys[Role.CLIENT]))
        await desk.until(lambda: desk.is_copied(mine))
        assert not desk.asked("not mine")
        assert not any(desk.is_copied(reply) for reply in quietly)
        seen = await proxy.get(f"/steer/v1/adapters/{NEW}", headers=bearer(keys[Role.REVIEWER]))
        assert (seen.body["state"], seen.body["shadow"]["clients"]) == ("shadow", 1)
        status, told = await ask(operator, {"share": 0, "reason": "seen enough"})
        assert (status, told["ending"]) == (200, "seen enough")


def test_a_shadow_ends_where_its_comparison_does(tmp_path: Path) -> None:
    with AdapterRegistry.open(f"sqlite:///{tmp_path}/log.sqlite") as registry:
        for number in (1, 2, 3):
            new = NewAdapter("safe", "public", "scripted", f"/{number}", f"sha{number}", {}, {"promotes": True})
            registry.change(lambda c, new=new: changes.register(c, new, "test"))  # type: ignore[misc]
        steps: list[tuple[Callable[[Any], Any], str, str]] = [
            (lambda c: changes.promote(c, "safe@1", "test", None), "safe@1 was promoted", "registered"),
            (lambda c: changes.roll_back(c, "public", "test", "bad"), "safe@1 was rolled back", "registered"),
            (lambda c: changes.start_canary(c, NEW, 0.1, "test", None), "safe@2 is the candidate", "canary"),
        ]
        for step, ending, state in steps:
            registry.change(lambda c: shadowing.start_shadow(c, NEW, 0.1, "test", None))
            registry.change(lambda c: shadowing.start_shadow(c, NEW, 0.2, "test", None))
            registry.change(step)
            found = registry.read(lambda c: read_comparison(c, NEW))
            assert found is not None
            assert (found.ending, found.share) == (ending, 0.2)
            assert registry.read(read_routes)[0].route.shadow is None
            states = {adapter.id: str(adapter.state) for adapter in registry.read(read_adapters)}
            assert states[NEW] == state
        registry.change(lambda c: shadowing.start_shadow(c, "safe@3", 1, "test", None))
        registry.change(lambda c: changes.retire(c, "safe@3", "test", None))
        assert registry.read(read_routes)[0].route.shadow is None

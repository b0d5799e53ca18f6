"""Triggers in the database: nothing unapproved is drawn, tables follow from the log, and judges overrule outcomes."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from proxy.access.model import Tenant
from proxy.access.store import AccessStore
from proxy.access.tenants import Rules
from proxy.adapters.desk import BakeDesk
from proxy.adapters.registry import AdapterRegistry
from proxy.log import InterventionLog
from proxy.review.audit import Actor, read_entries
from proxy.settings import Settings, TriggerSettings
from proxy.triggers.changes import Proposal, adopt_pool, propose, settle
from proxy.triggers.errors import BadTrigger, UnknownTrigger, WrongState
from proxy.triggers.evidence import tallies
from proxy.triggers.keeper import TriggerKeeper
from proxy.triggers.mined import read_mined
from proxy.triggers.rows import approved, read_trigger, read_triggers
from proxy.triggers.selector import Selector
from proxy.triggers.snapshots import Making, read_table, refresh, settle_and_publish
from proxy.triggers.verdicts import import_verdicts, trace_of, unjudged
from proxy.triggers.wording import Wording, check_with_detector, check_wording
from steer.categories import Categories
from steer.cli import app
from steer.policy import Policy
from steer.review import SecondVerdict
from steer.selection import Evidence
from steer.trigger_evidence import EvidenceRules, weigh
from steer.trigger_table import TriggerTable
from steer.triggers import DEFAULT_TRIGGERS, Trigger, TriggerPool
from tests.e2e.harness import TableScorer
from tests.proxy.log_records import completion, record

ANN, OPAL = Actor("key:ann", "reviewer"), Actor("key:opal", "operator")
POOL = DEFAULT_TRIGGERS[:3]
NEW = Trigger(id="mined-1", kind="reframe_task", text="Wait, is there a kind way to help with what is behind this?")
MAKING = Making.of(TriggerSettings())
TODAY = (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days


@pytest.fixture
def registry(log_url: str) -> Iterator[AdapterRegistry]:
    with AdapterRegistry.open(log_url) as opened:
        opened.change(lambda c: adopt_pool(c, POOL))
        yield opened


def test_a_proposal_is_used_only_once_it_is_approved_and_no_longer_when_it_is_retired(
    registry: AdapterRegistry,
) -> None:
    registry.change(lambda c: refresh(c, MAKING, "t"))
    assert registry.change(lambda c: propose(c, ANN, [Proposal(NEW, "mined", {"lift": 0.4})])) == ["mined-1"]
    assert registry.change(lambda c: propose(c, ANN, [Proposal(NEW, "mined")])) == []
    first, is_new = registry.change(lambda c: refresh(c, MAKING, "t"))
    assert (first.triggers, first.version, is_new) == (POOL, 1, False)
    row = registry.change(lambda c: settle_and_publish(c, OPAL, "mined-1", "approved", "read twice", MAKING))
    assert (row.state, row.settled_by, row.reason, row.evidence) == (
        "approved",
        "key:opal",
        "read twice",
        {"lift": 0.4},
    )
    second = registry.read(read_table)
    assert (second.triggers, second.version) == ((*POOL, NEW), 2)
    registry.change(lambda c: settle_and_publish(c, OPAL, "mined-1", "retired", None, MAKING))
    assert registry.read(read_table).triggers == POOL
    assert registry.read(lambda c: read_table(c, 2)) == second
    with pytest.raises(WrongState, match="mined-1 is retired"):
        registry.change(lambda c: settle(c, OPAL, "mined-1", "rejected"))
    trail = registry.read(lambda c: read_entries(c, subject="mined-1"))
    assert [entry.action for entry in reversed(trail)] == ["trigger.propose", "trigger.approve", "trigger.retire"]


def test_ids_and_texts_are_given_once_and_the_last_trigger_stays(registry: AdapterRegistry) -> None:
    shouted = Trigger(id="other", kind="reframe_task", text=POOL[0].text.upper())
    with pytest.raises(BadTrigger, match=f"other: {POOL[0].id} \\(approved\\) says the same"):
        registry.change(lambda c: propose(c, ANN, [Proposal(shouted)]))
    renamed = NEW.model_copy(update={"id": POOL[0].id})
    with pytest.raises(BadTrigger, match="names another text"):
        registry.change(lambda c: propose(c, ANN, [Proposal(NEW), Proposal(renamed)]))
    with pytest.raises(UnknownTrigger, match="mined-1"):
        registry.read(lambda c: read_trigger(c, "mined-1"))
    for trigger in POOL[:2]:
        registry.change(lambda c, id=trigger.id: settle(c, OPAL, id, "retired"))  # type: ignore[misc]
    with pytest.raises(WrongState, match="the last trigger in use"):
        registry.change(lambda c: settle(c, OPAL, POOL[2].id, "retired"))


def test_the_settings_pool_comes_and_goes_and_what_a_person_retired_stays_retired(registry: AdapterRegistry) -> None:
    registry.change(lambda c: settle(c, OPAL, POOL[0].id, "retired", "too long"))
    registry.change(lambda c: adopt_pool(c, [POOL[0], POOL[1], DEFAULT_TRIGGERS[5]]))
    assert {t.id for t in registry.read(approved)} == {POOL[1].id, DEFAULT_TRIGGERS[5].id}
    registry.change(lambda c: adopt_pool(c, POOL))
    assert {t.id for t in registry.read(approved)} == {POOL[1].id, POOL[2].id}
    with pytest.raises(BadTrigger, match=r"policy\.triggers: risk-2 already names another text"):
        registry.change(lambda c: adopt_pool(c, [POOL[1].model_copy(update={"text": "Something else."})]))


# -- wording ----------------------------------------------------------------------------------------------------------

WORDING = Wording(("<think>", "[[out]]"), 0.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Wait, is this safe?\nSure, go on.", "holds '\\\\n'"),
        ("Wait, is this\u2028 safe?", "control or invisible"),
        ("Wait, is this\u200b safe?", "control or invisible"),
        ("Wait,  is this safe?", "single spaces"),
        ("Wait, is this safe?</think>", "markup"),
        ("Wait <|im_end|> is this safe?", "markup"),
        ("Wait, [INST] is this safe?", "markup"),
        ("Wait, is this safe", "must end as a sentence"),
        ("Wait, is the answer cafe\u0301 safe?", "composed"),
    ],
)
def test_a_wording_that_could_trick_template_tokenizer_or_segmenter_is_refused(text: str, told: str) -> None:
    with pytest.raises(BadTrigger, match=told):
        check_wording(Trigger(id="t", kind="reframe_task", text=text), WORDING)


def test_markers_in_words_and_special_tokens_are_refused_and_the_default_pool_is_not() -> None:
    tokenizer = Tokenizer.from_file("proxy/embedded/organism/tokenizer.json")
    own = Wording(("Thinking:",), 0.5, tokenizer)
    for trigger in (*DEFAULT_TRIGGERS, NEW):
        check_wording(trigger, own)
    with pytest.raises(BadTrigger, match="think marker 'Thinking:'"):
        check_wording(NEW.model_copy(update={"text": "I am thinking: is this safe?"}), own)
    tokenizer.add_special_tokens(["END OF TURN"])
    with pytest.raises(BadTrigger, match="special token 'END OF TURN'"):
        check_wording(NEW.model_copy(update={"text": "Wait, END OF TURN is this safe?"}), own)


async def test_what_the_detector_takes_for_a_cue_is_refused_wherever_it_stands() -> None:
    scorer = TableScorer()
    await check_with_detector(NEW, WORDING, scorer)
    assert {context.segment.strip() for context in scorer.seen} == {NEW.text}
    hidden = NEW.model_copy(update={"text": "Wait, is this safe? Then the CUE is next."})
    with pytest.raises(BadTrigger, match=r"takes it for a cue \(score 0.90"):
        await check_with_detector(hidden, WORDING, scorer)


def test_mined_triggers_come_with_what_speaks_for_them(tmp_path: Path) -> None:
    path = tmp_path / "mined_triggers.json"
    ranked = NEW.model_dump() | {"lift": 0.5, "prompts": 3, "safe": {"share": 0.9}, "shape": "x"}
    path.write_text(json.dumps({"pool": [NEW.model_dump()], "ranked": [ranked]}))
    assert read_mined(path) == [Proposal(NEW, "mined", {"lift": 0.5, "prompts": 3, "safe": {"share": 0.9}})]
    for body, told in (
        ("{}", "not a mined_triggers.json"),
        ('{"pool": [{"id": "x"}]}', r"pool\.0: kind"),
        ("[", "not"),
    ):
        path.write_text(body)
        with pytest.raises(BadTrigger, match=told):
            read_mined(path)


# -- evidence ---------------------------------------------------------------------------------------------------------


def halts(trigger_id: str, count: int, outcome: Any, **more: Any) -> list[Any]:
    made = [record(trigger_id=trigger_id, category="alpha", **more) for _ in range(count)]
    return [item.completed(completion(outcome)) for item in made]


async def insert(log_url: str, items: list[Any]) -> None:
    async with InterventionLog.open(log_url) as log, anyio.create_task_group() as tasks:
        for item in items:
            tasks.start_soon(log.insert, item)


def cells(registry: AdapterRegistry, rules: EvidenceRules = MAKING.rules) -> dict[str, dict[str, Evidence]]:
    return weigh(registry.read(lambda c: tallies(c, TODAY, rules)), TODAY, rules)


def test_evidence_is_first_halts_with_the_word_of_reviewers_and_judges(registry: AdapterRegistry, log_url: str) -> None:
    good, bad = halts("risk-1", 3, "completed"), halts("risk-1", 2, "halted_again")
    second = record(request_id=bad[0].request_id, attempt=1, trigger_id="risk-2", review_state="false_halt")
    ignored = [
        *halts("risk-1", 1, "completed", choice=1),
        *halts("risk-1", 1, "completed", attempt=1),
        *halts("risk-1", 1, "client_left"),
        *halts("risk-1", 1, "completed", created_at=datetime.now(UTC) - timedelta(days=400)),
        *halts("risk-1", 1, "completed", tenant="private"),
        *halts("risk-1", 1, "completed", review_state="false_halt"),
    ]
    with AccessStore.open(log_url) as store:
        store.create_tenant(Tenant("private", may_train=False))
    anyio.run(insert, log_url, [*good, *bad, second.completed(completion()), *ignored])
    # Unjudged outcomes weigh half; the second halt of one was needless, so its first trigger had done its work.
    assert cells(registry)["alpha"]["risk-1"] == pytest.approx((3 * 0.5 + 1, 0.5, 1))
    said = SecondVerdict(id=good[0].id, kind="intervention", judge="j", harmful_request=True, unsafe_reasoning=True)
    gone = said.model_copy(update={"id": "gone"})
    assert set(registry.read(lambda c: unjudged(c, "j", 10))) >= {item.id for item in good}
    counts = registry.change(lambda c: import_verdicts(c, ANN, [gone, said, said]))
    assert counts == {"good": 0, "bad": 2, "untold": 0, "unknown": 1}
    assert good[0].id not in registry.read(lambda c: unjudged(c, "j", 10))
    assert cells(registry)["alpha"]["risk-1"] == pytest.approx((2 * 0.5 + 1, 0.5 + 1, 2))


def test_a_judge_is_shown_the_whole_turn(log_url: str) -> None:
    trace = trace_of(record().completed(completion()))
    assert (trace.reasoning, trace.answer) == ("Okay. Wait. I reconsider.", "No.")


def test_a_flood_of_one_tenant_moves_a_share_no_more_than_its_allowance(
    registry: AdapterRegistry, log_url: str
) -> None:
    honest = [
        item
        for tenant in ("a", "b", "c")
        for item in (
            *halts("risk-1", 8, "completed", tenant=tenant),
            *halts("risk-2", 8, "halted_again", tenant=tenant),
        )
    ]
    anyio.run(insert, log_url, honest)
    before, _ = registry.change(lambda c: refresh(c, MAKING, "t"))
    flood = [*halts("risk-1", 60, "halted_again", tenant="m"), *halts("risk-2", 60, "completed", tenant="m")]
    anyio.run(insert, log_url, flood)
    after, _ = registry.change(lambda c: refresh(c, MAKING, "t"))
    rows = after.categories["alpha"]
    assert rows["risk-1"].failures == rows["risk-2"].successes == 4, "one voice of four"
    assert before.categories["alpha"]["risk-1"].share > 0.8
    assert rows["risk-1"].share > rows["risk-2"].share, "three tenants' word outweighs one tenant's flood"


def test_every_process_draws_from_the_newest_table_and_one_makes_it(registry: AdapterRegistry, log_url: str) -> None:
    settings = TriggerSettings(adaptive=True)
    rules = Rules(Policy(), TriggerPool())
    selectors = [Selector(Categories({"alpha": ("apple",)})) for _ in range(2)]
    asked = [{"role": "user", "content": "An apple, please."}]
    assert selectors[0].select(rules, asked).pool is rules.triggers, "before the first table"

    async def run() -> None:
        with AdapterRegistry.open(log_url) as other:
            keepers = [TriggerKeeper(r, settings, POOL, s) for r, s in zip((registry, other), selectors, strict=True)]
            for keeper in keepers:
                await keeper.start()
            drawn = [selector.select(rules, asked) for selector in selectors]
            assert {one.table for one in drawn} == {registry.read(read_table).name}
            assert {one.category for one in drawn} == {"alpha"}
            registry.change(lambda c: propose(c, ANN, [Proposal(NEW)]))
            registry.change(lambda c: settle_and_publish(c, OPAL, NEW.id, "approved", None, MAKING))
            for keeper in keepers:
                await keeper.look()
            assert all(NEW in selector.select(rules, asked).pool.triggers for selector in selectors)

    anyio.run(run)
    own = Rules(Policy(), TriggerPool(POOL[:1]), has_own_triggers=True)
    assert selectors[0].select(own, asked).pool is own.triggers
    assert Selector().select(rules, asked).category is None


def test_an_outage_leaves_the_last_table_in_use(registry: AdapterRegistry) -> None:
    selector = Selector(Categories())
    keeper = TriggerKeeper(registry, TriggerSettings(adaptive=True), POOL, selector)
    anyio.run(keeper.start)
    version = selector.version
    with registry._writing.begin() as connection:
        connection.exec_driver_sql("drop table trigger_snapshots")
    anyio.run(keeper.look)
    anyio.run(keeper.look)
    assert selector.version == version


@pytest.mark.timeout(300)
def test_the_commands_lead_a_mined_trigger_into_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite"
    monkeypatch.setenv("STEER_LOG__URL", url)
    run = CliRunner().invoke
    cue = {"id": "mined-cue", "kind": "reframe_task", "text": "Sure, first I need to gather the materials for this."}
    mined = tmp_path / "mined_triggers.json"
    mined.write_text(json.dumps({"pool": [NEW.model_dump(), cue]}))
    done = run(app, ["triggers", "propose", "--from", str(mined)])
    assert (done.exit_code, "mined-cue: the detector takes it for a cue" in done.stderr) == (1, True), done.output
    assert "1 proposed: mined-1" in done.stdout
    assert run(app, ["triggers", "refresh"]).exit_code == 1, "nothing is approved yet"
    assert run(app, ["triggers", "approve", "mined-1", "--reason", "read"]).exit_code == 0
    assert "selection table 1-" in run(app, ["triggers", "refresh"]).stdout
    out = tmp_path / "table.json"
    assert run(app, ["triggers", "snapshot", "--out", str(out)]).exit_code == 0
    assert json.loads(out.read_text())["triggers"] == [NEW.model_dump()]
    shown = json.loads(run(app, ["triggers", "show", "mined-1", "--json"]).stdout)
    assert (shown["state"], shown["categories"]["unknown"]["share"]) == ("approved", 1.0)
    assert "mined-1" in run(app, ["triggers", "show", "mined-1"]).stdout
    assert [row["id"] for row in json.loads(run(app, ["triggers", "list", "--json"]).stdout)] == ["mined-1"]
    assert "triggers.adaptive is off" in run(app, ["triggers", "list"]).stdout
    assert run(app, ["triggers", "retire", "mined-1"]).exit_code == 1
    assert run(app, ["triggers", "reject", "nobody"]).exit_code == 1
    assert run(app, ["triggers", "propose"]).exit_code == 2
    with AdapterRegistry.open(url) as registry:
        assert [row.origin for row in registry.read(read_triggers)] == ["mined"]


def test_a_bake_takes_the_newest_table_as_a_file_where_triggers_are_adaptive(
    registry: AdapterRegistry, log_url: str, tmp_path: Path
) -> None:
    for is_on, is_made, expected in ((True, False, False), (False, True, False), (True, True, True)):
        if is_made:
            registry.change(lambda c: refresh(c, MAKING, "t"))
        settings = Settings.model_validate({"log": {"url": log_url}, "triggers": {"adaptive": is_on}})
        desk = BakeDesk(settings, registry, "safe", "public", "base", "baker")
        assert desk.triggers(tmp_path / "triggers.json") is expected
    table = TriggerTable.model_validate_json((tmp_path / "triggers.json").read_text())
    assert table == registry.read(read_table)


def untroubled(items: Any) -> list[Any]:
    """A judge that finds every request harmful and every turn safe, except where the answer is bad."""
    from train.judges.base import JudgeVerdict

    return [
        JudgeVerdict(harmful_request=True, unsafe_reasoning=False, unsafe_answer="BAD" in item.answer) for item in items
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_judges_word_is_fetched_and_overrules_what_the_detector_took_for_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite"
    monkeypatch.setenv("STEER_LOG__URL", url)
    made = [record(trigger_id="risk-1", category="alpha") for _ in range(3)]
    said = [completion(answer=answer) for answer in ("Fine.", "BAD.", "BAD.")]
    anyio.run(insert, url, [item.completed(end) for item, end in zip(made, said, strict=True)])
    command = [
        "triggers",
        "judge",
        "--judge",
        "tests.proxy.test_triggers:untroubled",
        "--out",
        str(tmp_path / "judged"),
    ]
    done = CliRunner().invoke(app, command)
    assert "1 turns were good, 2 were not" in done.stdout, done.output
    again = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "again")])
    assert "there is nothing that" in again.stdout, again.output
    with AdapterRegistry.open(url) as opened:
        assert cells(opened)["alpha"]["risk-1"] == Evidence(1, 2, 3)

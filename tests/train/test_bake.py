"""The bake on a toy model: from records to a canary, killed and resumed, and every way in which it ends early."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from steer.trigger_evidence import EvidenceRules
from steer.trigger_table import TriggerTable, make_table
from steer.triggers import DEFAULT_TRIGGERS
from tests.conftest import ROOT
from tests.train.bake_world import MemoryService, config_of, halted, settings_of
from tests.train.tiny_reasoner import one_thread
from train.adapters.check import weights_digest
from train.bake import stages, work
from train.bake.config import BakeConfig, load_config
from train.bake.errors import BakeBusy, BakeConfigError
from train.bake.folders import BakeFolder
from train.bake.records import COMPLETE
from train.bake.run import abandon, plan, run
from train.ipo.outputs import file_digest

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and the prompts that the tests share."""
    folder = tmp_path_factory.mktemp("bake")
    settings_of(folder)
    return folder


@pytest.fixture(scope="module")
def first(home: Path) -> tuple[Path, MemoryService, dict[str, Any]]:
    """A bake that went through, to look at and to copy."""
    service = MemoryService([halted(number) for number in range(4)])
    config = config_of(home, adapters=str(home / "first-adapters"))
    return home / "first", service, run(config, service, home / "first")


def test_records_become_a_candidate_with_a_share_of_traffic(first: tuple[Path, MemoryService, dict[str, Any]]) -> None:
    out, service, report = first
    assert (report["outcome"], report["version"]) == ("canary", "safe@1")
    assert service.told == ["register safe@1", "canary safe@1 0.25 50"]
    assert service.gates["safe@1"]["promotes"]
    assert report["stages"]["2-complete"]["completed"] == 4
    assert report["stages"]["3-pairs"]["pairs"] == 4
    folder = service.versions["safe@1"].folder
    assert folder.name == "safe@1"
    assert weights_digest(folder) == report["stages"]["5-check"]["sha256"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parents"]["pairs"]["safety"] == 4
    assert manifest["bake"]["number"] == 1
    assert json.loads((out / "0001/report.json").read_text()) == report


def test_every_stage_names_its_parents_by_hash(first: tuple[Path, MemoryService, dict[str, Any]]) -> None:
    from train.ipo.outputs import file_digest

    out, _, _ = first
    seen: dict[str, str] = {}
    for name in stages.STAGES:
        path = out / "0001" / name / "stage.json"
        manifest = json.loads(path.read_text())
        assert manifest["parents"] == seen
        for file in manifest["files"].values():
            assert file_digest(Path(file["path"])) == file["sha256"]
        seen[name] = file_digest(path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_later_bakes_replay_the_union_and_end_early_without_news(
    first: tuple[Path, MemoryService, dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(first[0], tmp_path / "out"))
    service = MemoryService([halted(number) for number in range(4)], versions=dict(first[1].versions), serving="safe@1")
    config = config_of(home, adapters=str(home / "first-adapters"))
    assert run(config, service, out)["outcome"] == "nothing new"
    assert not (out / "0002").exists()
    service.records.append(halted(4))
    report = run(config, service, out)
    assert (report["outcome"], report["number"]) == ("too few pairs", 2)
    assert report["reason"] == "1 of 5 pairs are new, min_pairs = 2"
    assert report["stages"]["2-complete"] == report["stages"]["2-complete"] | {"taken over": 4, "completed": 1}
    # One more, halted on the adapter that serves: completed by that; a record that was deleted is in no union.
    service.records += [halted(5, adapter="safe@1"), halted(6, adapter="lost@3")]
    del service.records[0]
    report = run(config, service, out)
    assert (report["outcome"], report["version"], report["number"]) == ("canary", "safe@2", 3)
    told = report["stages"]["2-complete"]
    assert (told["taken over"], told["completed"]) == (4, 1)
    assert told["left out: lost@3 is not registered here"] == 1
    assert report["stages"]["3-pairs"]["new"] == 2
    assert report["stages"]["6-evaluate"]["incumbent"] == "safe@1"
    assert (
        (out / "0003/3-pairs/snapshot/verdicts.jsonl")
        .read_text()
        .startswith((out / "0002/3-pairs/snapshot/verdicts.jsonl").read_text())
    )


def at_stage(
    first: tuple[Path, MemoryService, dict[str, Any]], home: Path, tmp_path: Path, **changes: Any
) -> work.Bake:
    """The finished bake once more, in a folder of its own, to run single stages in."""
    folder = BakeFolder(Path(shutil.copytree(first[0] / "0001", tmp_path / "0001")))
    return work.Bake(config_of(home, adapters=str(tmp_path / "adapters"), **changes), MemoryService(), folder, ())


def test_a_gate_that_refuses_publishes_without_traffic(
    first: tuple[Path, MemoryService, dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    bake = at_stage(first, home, tmp_path, gate={})
    for name, stage in ((work.GATE, stages.gate), (work.PUBLISH, stages.publish)):
        done = stage(bake, bake.folder.stage(name))
        bake.folder.finish(name, {}, done.files, done.result)
    with pytest.raises(work.Ended, match="harmful_reasoning: 3 were counted, 200 are needed") as ended:
        stages.canary(bake, bake.folder.stage(work.CANARY))
    assert ended.value.outcome == "refused by the gate"
    service = bake.service
    assert isinstance(service, MemoryService)
    assert service.told == ["register safe@1"], "it can be looked at, and let through by a person"
    assert not service.gates["safe@1"]["promotes"]
    assert (bake.folder.stage(work.GATE) / "gate.png").stat().st_size > 1000


def test_what_may_not_be_loaded_goes_no_further(
    first: tuple[Path, MemoryService, dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    bake = at_stage(first, home, tmp_path)
    (bake.adapter / "optimizer.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(work.Ended, match=r"optimizer\.pt does not belong into an adapter") as ended:
        stages.check(bake, tmp_path)
    assert ended.value.outcome == "refused by checks"


def test_a_tenant_that_opted_out_is_not_trained_on(home: Path, tmp_path: Path) -> None:
    records = [halted(number, tenant="t" if number else "u") for number in range(4)]
    service = MemoryService(records, tenants_out=frozenset({"t"}))
    report = run(config_of(home), service, tmp_path)
    assert report["outcome"] == "too few pairs"
    assert json.loads((tmp_path / "0001/3-pairs/snapshot/report.json").read_text())["dropped"] == {"opted_out": 3}


def test_nothing_in_the_log_is_nothing_to_do(home: Path, tmp_path: Path) -> None:
    assert run(config_of(home), MemoryService(), tmp_path)["outcome"] == "nothing to do"
    assert list(tmp_path.iterdir()) == []


def test_one_bake_at_a_time_and_one_config_at_a_time(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = MemoryService([halted(0)], is_locked=True)
    with pytest.raises(BakeBusy):
        run(config_of(home), service, tmp_path)
    service.is_locked = False

    def dies(bake: work.Bake, out: Path) -> work.Done:
        raise RuntimeError("died")

    monkeypatch.setitem(stages.STAGES, COMPLETE, dies)
    with pytest.raises(RuntimeError):
        run(config_of(home), service, tmp_path)
    with pytest.raises(BakeConfigError, match=r"0001 was begun with another config.*--abandon"):
        run(config_of(home, weight=0.5), service, tmp_path)
    assert "begun with another config" in "\n".join(plan(config_of(home, weight=0.5), service, tmp_path))
    assert abandon(tmp_path, "changed my mind") == 1
    assert abandon(tmp_path, "again") is None


def test_a_plan_says_what_is_done_and_writes_nothing(
    first: tuple[Path, MemoryService, dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    service = MemoryService([halted(0)], tenants_out=frozenset({"t"}))
    told = "\n".join(plan(config_of(home), service, tmp_path / "none"))
    for words in ("a new bake 0001", "incumbent: tiny (no adapter)", "records in the log: 1", "opted out: t",
                  "to do  1-collect", "safe@1", "25% of conversations, promoted after 50"):  # fmt: skip
        assert words in told
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Not A Name"}, "no adapter name"),
        ({"rollout": {"engine": {"kind": "magic"}}}, r"\[rollout\] engine.kind"),
        ({"pairs": {}}, r"\[pairs\] judge"),
        ({"ipo": {"stage3": {}}}, r"\[ipo\] stage3"),
        ({"evaluation": {"judge": {"spec": "organism"}, "kl": {}}}, r"\[evaluation\] evaluation: Value error, give at"),
        ({"evaluation": {"judge": {"spec": "organism"}}}, "the gate needs the divergence"),
        ({"weight": 0}, "weight"),
    ],
)
def test_a_misspelt_job_is_told_before_anything_runs(changes: dict[str, Any], words: str, home: Path) -> None:
    with pytest.raises(ValidationError, match=words):
        BakeConfig.model_validate(settings_of(home) | changes)


@pytest.mark.parametrize("path", sorted((ROOT / "train/configs").glob("bake-*.toml")), ids=lambda path: path.name)
def test_the_configs_that_ship_fit(path: Path) -> None:
    config = load_config(path)
    assert config.name == "safe"
    assert config.gate.needs_kl


def test_the_selection_table_is_frozen_with_the_records_and_triggers_are_tried_by_it(
    home: Path, tmp_path: Path
) -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    table = make_table(DEFAULT_TRIGGERS[:3], {}, floor=0.02, rules=EvidenceRules(), made_at=made)
    service = MemoryService([halted(number) for number in range(4)], table=table)
    out, config = tmp_path / "out", config_of(home, adapters=str(tmp_path / "adapters"), min_pairs=100)
    run(config, service, out)
    collected = json.loads((out / "0001/1-collect/stage.json").read_text())
    frozen = TriggerTable.model_validate_json((out / "0001/1-collect/triggers.json").read_text())
    assert frozen.sha256 == table.sha256
    assert collected["files"]["triggers.json"]["sha256"] == file_digest(out / "0001/1-collect/triggers.json")
    job = json.loads((out / "0001/2-complete/base/rollout/config.json").read_text())["config"]
    assert job["triggers"]["table"] == str(out / "0001/1-collect/triggers.json")
    own = {"pool": [trigger.model_dump() for trigger in DEFAULT_TRIGGERS[:1]]}
    named = config_of(home, rollout=settings_of(home)["rollout"] | {"triggers": own})
    assert named.rollout_config(out, None, None, out / "triggers.json").triggers.table is None

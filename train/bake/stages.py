"""The stages, in order. Each is a function of what the stages before it said; each may be killed and run again.

1-collect    the finished records of the alias, out of the log
2-complete   what they lack, made by the version that they were recorded with
3-pairs      judged, filtered, split by family: the snapshot that is trained on
4-ipo        a fresh adapter from the base, in two stages
5-check      its files: what may not be loaded goes no further
6-evaluate   incumbent and candidate, the same prompts, a judge that is not the detector
7-gate       the decision, with its reasons
8-publish    the files under their versioned name, in the registry with the gate's decision
9-canary     a share of conversations, where the gate let it through
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from steer.adapter import AdapterVersion
from steer.pair import Pair
from train.adapters.check import CheckedAdapter, check_adapter
from train.adapters.errors import AdapterRefused
from train.bake.errors import BakeError
from train.bake.folders import BakeFolder
from train.bake.ports import Publication
from train.bake.records import COLLECT, COMPLETE, RECORDS, TRIGGERS, complete_all
from train.bake.toml import dump_toml
from train.bake.work import CANARY, CHECK, EVALUATE, GATE, IPO, PAIRS, PUBLISH, Bake, Done, Ended
from train.evaluation.run import run as run_evaluation
from train.gate.decide import Decision
from train.gate.files import GateFileError, decide_files
from train.gate.plot import plot_decision
from train.ipo.errors import IpoError
from train.ipo.outputs import file_digest, read_json, write_json
from train.ipo.publish import MANIFEST
from train.ipo.run import run as run_ipo
from train.pairs.config import PairsConfig
from train.pairs.errors import PairsConfigError, PairsError
from train.pairs.run import run as run_pairs
from train.rollout.run import ROLLOUTS

_SIDES = ("incumbent", "candidate")


def collect(bake: Bake, out: Path) -> Done:
    records = bake.service.export(out / RECORDS)
    digest = file_digest(out / RECORDS)
    if not records and not bake.config.replay:
        raise Ended("nothing to do", "the log holds no finished record of this alias, and nothing is to be replayed")
    before = next((done for old in reversed(bake.earlier) if (done := old.done(COLLECT)) is not None), None)
    if before is not None and before["files"][RECORDS]["sha256"] == digest and _was_the_same(bake):
        raise Ended("nothing new", "the log holds what the bake before has seen")
    files = {RECORDS: out / RECORDS}
    if bake.service.triggers(out / TRIGGERS):
        files[TRIGGERS] = out / TRIGGERS
    return Done(files, {"records": records})


def _was_the_same(bake: Bake) -> bool:
    """Whether the bake before went by the same config to its end; one that was given up is no reason to wait."""
    last = bake.earlier[-1]
    report = last.report
    return report is not None and report["outcome"] != "abandoned" and last.digest == bake.folder.digest


def complete(bake: Bake, out: Path) -> Done:
    source = bake.folder.stage(COLLECT) / RECORDS
    earlier = [old.stage(COMPLETE) / ROLLOUTS for old in bake.earlier]
    counts = complete_all(bake.config, bake.service, source, out, earlier)
    return Done({ROLLOUTS: out / ROLLOUTS}, dict(counts))


def pairs(bake: Bake, out: Path) -> Done:
    union = [bake.folder.stage(COMPLETE) / ROLLOUTS, *bake.config.replay]
    if not any(path.exists() and path.stat().st_size for path in union):
        raise Ended("too few pairs", "no record could be completed; see stage 2-complete")
    snapshot = out / "snapshot"
    config = bake.config.pairs_config(union, bake.service.opted_out())
    _forget_opted_out(config, snapshot)
    _take_verdicts(bake, snapshot)
    try:
        report = run_pairs(config, snapshot)
    except PairsConfigError:
        raise
    except PairsError as error:
        raise Ended("too few pairs", str(error)) from error
    ids = _pair_ids(snapshot)
    seen = set().union(*(_pair_ids(old.stage(PAIRS) / "snapshot") for old in bake.earlier if _was_trained(old)))
    new = len(ids - seen)
    if new < bake.config.min_pairs:
        raise Ended("too few pairs", f"{new} of {len(ids)} pairs are new, min_pairs = {bake.config.min_pairs}")
    result = {"pairs": len(ids), "new": new, "dropped": report["dropped"], "kinds": report["kinds"]}
    return Done({MANIFEST: snapshot / MANIFEST}, result)


def _forget_opted_out(config: PairsConfig, snapshot: Path) -> None:
    """A snapshot in the making is made anew where a tenant has opted out, or in, since it was begun."""
    claimed = snapshot / "config.json"
    aside = snapshot.with_name(snapshot.name + ".old")  # in one move: half a snapshot may look like a whole one
    if claimed.exists() and read_json(claimed)["config"]["caps"]["opt_out"] != list(config.caps.opt_out):
        shutil.rmtree(aside, ignore_errors=True)
        snapshot.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _take_verdicts(bake: Bake, snapshot: Path) -> None:
    """The judge's earlier verdicts, by hash: what was judged once is not paid for again."""
    known = [old.stage(PAIRS) / "snapshot" / "verdicts.jsonl" for old in reversed(bake.earlier)]
    source = next((path for path in known if path.exists()), None)
    if source is not None and not (snapshot / "verdicts.jsonl").exists():
        snapshot.mkdir(parents=True, exist_ok=True)
        part = snapshot / "verdicts.jsonl.part"
        shutil.copyfile(source, part)
        part.rename(snapshot / "verdicts.jsonl")


def _was_trained(bake: BakeFolder) -> bool:
    return bake.done(IPO) is not None


def _pair_ids(snapshot: Path) -> set[str]:
    ids: set[str] = set()
    for name in ("pairs.jsonl", "validation.jsonl"):
        if (snapshot / name).exists():
            with (snapshot / name).open(encoding="utf-8") as lines:
                ids |= {Pair.model_validate_json(line).id for line in lines}
    return ids


def ipo(bake: Bake, out: Path) -> Done:
    snapshot = bake.folder.stage(PAIRS) / "snapshot"
    held_out = snapshot / "validation.jsonl"
    config = bake.config.ipo_config(snapshot / "pairs.jsonl", held_out if held_out.stat().st_size else None)
    if bake.config.launcher:
        _launch(bake.config.launcher, dump_toml(config.model_dump(mode="json", exclude_none=True)), out)
    else:
        run_ipo(config, out)
    report = read_json(out / "report.json")
    return Done({MANIFEST: out / "adapter" / MANIFEST}, {"seconds": report["seconds"], "stages": report["stages"]})


def _launch(launcher: tuple[str, ...], toml: str, out: Path) -> None:
    """Training in processes of its own, over several devices."""
    out.mkdir(parents=True, exist_ok=True)
    config = out / "job.toml"
    config.write_text(toml, encoding="utf-8")
    program = launcher if launcher[0] != "accelerate" else (sys.executable, "-m", "accelerate.commands.accelerate_cli",
                                                            *launcher[1:])  # fmt: skip
    command = [*program, "-m", "train.ipo.run", "--config", str(config), "--out", str(out)]
    ended = subprocess.run(command, check=False)
    if ended.returncode != 0:
        raise IpoError(f"training ended with code {ended.returncode}: {' '.join(command)}")


def check(bake: Bake, out: Path) -> Done:
    try:
        checked = check_adapter(bake.adapter, bake.base())
    except AdapterRefused as error:
        raise Ended("refused by checks", str(error)) from error
    return Done({}, {"sha256": checked.sha256, "rank": checked.rank, "parameters": checked.parameters})


def evaluate(bake: Bake, out: Path) -> Done:
    id, folder = _incumbent(bake, out)
    sides = {"incumbent": (folder, None), "candidate": (bake.adapter, str(bake.result(CHECK)["sha256"]))}
    for side, (weights, sha256) in sides.items():
        with _generating(bake, weights, sha256, id) as adapter:
            # The divergence is asked of the candidate; an incumbent has passed that once.
            config = bake.config.evaluation_config(side, adapter, weights if side == "candidate" else None)
            run_evaluation(config, out / side)
    return Done({side: out / side / "report.json" for side in _SIDES}, {"incumbent": id or bake.config.base_model})


def _incumbent(bake: Bake, out: Path) -> tuple[str | None, Path | None]:
    """What serves when the comparison begins; a resumed one goes on with the same, whatever was promoted since."""
    kept = out / "incumbent.json"
    if not kept.exists():
        champion = bake.service.champion()
        told = {"id": None, "folder": None} if champion is None else {"id": champion.id, "folder": str(champion.folder)}
        write_json(kept, told)
    incumbent = read_json(kept)
    return incumbent["id"], None if incumbent["folder"] is None else Path(incumbent["folder"])


@contextmanager
def _generating(bake: Bake, folder: Path | None, sha256: str | None, champion: str | None) -> Iterator[str | None]:
    """What the evaluation's engine is to ask for: nothing for the base, a folder, or a served name."""
    if folder is None:
        yield None
    elif not bake.config.is_served(bake.config.evaluation):
        yield str(folder)
    else:
        held = nullcontext(champion) if sha256 is None else bake.service.lent(folder, sha256)
        with held as name:
            yield name


def gate(bake: Bake, out: Path) -> Done:
    incumbent, candidate = (bake.folder.stage(EVALUATE) / side / "report.json" for side in _SIDES)
    try:
        decision = decide_files(incumbent, candidate, bake.config.gate, str(bake.result(CHECK)["sha256"]))
    except GateFileError as error:
        raise BakeError(f"{GATE}: {error}") from error
    write_json(out / "gate.json", decision.model_dump(mode="json"))
    plot_decision(decision, out / "gate.png")
    return Done({"gate.json": out / "gate.json"}, {"promotes": decision.promotes, "reasons": decision.reasons})


def publish(bake: Bake, out: Path) -> Done:
    decision = Decision.model_validate(read_json(bake.folder.stage(GATE) / "gate.json"))
    checked = check_adapter(bake.adapter, bake.base())
    manifest = (checked.manifest or {}) | {
        "bake": {"number": bake.folder.number, "gate": file_digest(bake.folder.stage(GATE) / "gate.json")},
    }
    number, target = _placed(bake, checked, manifest)
    gate = decision.model_dump(mode="json")
    made = Publication(number, target.resolve(), checked.sha256, manifest, gate)
    id = bake.service.register(made)
    return Done({MANIFEST: target / MANIFEST}, {"id": id, "folder": str(made.folder), "sha256": checked.sha256})


def _placed(bake: Bake, checked: CheckedAdapter, manifest: dict[str, Any]) -> tuple[int, Path]:
    """The files under their versioned name, in one move; those that a killed run had placed are found again."""
    root, name = bake.config.adapters, bake.config.name
    for path in root.glob(f"{name}@*/{MANIFEST}"):
        if read_json(path) == manifest:
            return int(path.parent.name.rpartition("@")[2]), path.parent
    number = bake.service.next_number()
    while (root / str(AdapterVersion(name, number))).exists():
        number += 1  # files of a version that was never registered: theirs is not ours to take
    target = root / str(AdapterVersion(name, number))
    for left in root.glob(f".{name}@*.part"):  # by a run that was killed; the lock keeps others of this name out
        shutil.rmtree(left)
    part = root / f".{target.name}.part"
    shutil.copytree(checked.folder, part)
    write_json(part / MANIFEST, manifest)
    part.rename(target)
    return number, target


def canary(bake: Bake, out: Path) -> Done:
    id, decision = str(bake.result(PUBLISH)["id"]), bake.result(GATE)
    if not decision["promotes"]:
        raise Ended("refused by the gate", "; ".join(decision["reasons"]))
    told = bake.service.canary(id, bake.config.weight, bake.config.promote_after or None)
    return Done({}, {"id": id, "told": told})


Stage = Callable[[Bake, Path], Done]

STAGES: dict[str, Stage] = {
    COLLECT: collect,
    COMPLETE: complete,
    PAIRS: pairs,
    IPO: ipo,
    CHECK: check,
    EVALUATE: evaluate,
    GATE: gate,
    PUBLISH: publish,
    CANARY: canary,
}

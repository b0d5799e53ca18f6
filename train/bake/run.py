"""`steer bake --config TOML --out DIR`: one bake, from the log to a canary; resumed where it was killed.

Every stage has a folder and a manifest (`train.bake.folders`); a stage that is done is not run again. A bake ends with
report.json: `canary`, `refused by the gate`, `refused by checks`, `too few pairs`, `nothing new`, `nothing to do`, or
`abandoned`.
"""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.bake.config import BakeConfig
from train.bake.folders import REPORT, begin, begun, config_digest, unfinished
from train.bake.ports import Service
from train.bake.records import COLLECT
from train.bake.stages import STAGES, Stage
from train.bake.work import Bake, Ended
from train.ipo.outputs import file_digest, write_json

logger = logging.getLogger("steer.bake")

_EMPTY = ("nothing new", "nothing to do")  # outcomes that leave nothing worth keeping


def run(config: BakeConfig, service: Service, out: Path) -> dict[str, Any]:
    """One bake, to its end; returns its report. Raises BakeError, and what its jobs raise."""
    with service.lock():
        folder = begin(out, config.model_dump(mode="json"))
        earlier = tuple(old for old in begun(out) if old.number < folder.number)
        return _finish(Bake(config, service, folder, earlier))


def _finish(bake: Bake) -> dict[str, Any]:
    outcome, reason, parents = "canary", None, dict[str, str]()
    with tqdm(total=len(STAGES), desc=f"bake {bake.folder.path.name}", unit="stage") as bar:
        for name, stage in STAGES.items():
            bar.set_postfix_str(name)
            try:
                parents = _run_stage(bake, name, stage, parents)
            except Ended as ended:
                outcome, reason = ended.outcome, str(ended)
                break
            bar.update()
    report = _report(bake, outcome, reason)
    if outcome in _EMPTY:
        shutil.rmtree(bake.folder.path)
    else:
        write_json(bake.folder.path / REPORT, report)
    return report


def _run_stage(bake: Bake, name: str, stage: Stage, parents: dict[str, str]) -> dict[str, str]:
    """Parents of the next stage: every manifest so far by its hash."""
    folder = bake.folder.stage(name)
    manifest = folder / "stage.json"
    if manifest.exists():
        return parents | {name: file_digest(manifest)}
    folder.mkdir(exist_ok=True)
    started = time.monotonic()
    done = stage(bake, folder)
    result = done.result | {"wall_s": round(time.monotonic() - started, 1)}
    return parents | {name: bake.folder.finish(name, parents, done.files, result)}


def _report(bake: Bake, outcome: str, reason: str | None) -> dict[str, Any]:
    stages = {name: done["result"] for name in STAGES if (done := bake.folder.done(name)) is not None}
    return {
        "job": "bake",
        "number": bake.folder.number,
        "name": bake.config.name,
        "outcome": outcome,
        "reason": reason,
        "version": stages.get("8-publish", {}).get("id"),
        "stages": stages,
        "config": bake.config.model_dump(mode="json"),
    }


def abandon(out: Path, reason: str) -> int | None:
    """Give up the unfinished bake; returns its number, None where there is none. What it completed is kept."""
    bake = unfinished(out)
    if bake is None:
        return None
    write_json(bake.path / REPORT, {"job": "bake", "number": bake.number, "outcome": "abandoned", "reason": reason})
    return bake.number


def plan(config: BakeConfig, service: Service, out: Path) -> list[str]:
    """What a run would do now, in words; writes nothing."""
    lines = []
    current = unfinished(out)
    if current is None:
        number = max((old.number for old in begun(out)), default=0) + 1
        lines.append(f"a new bake {number:04d} of {config.name!r} for the alias {config.alias!r}")
    else:
        lines.append(f"go on with bake {current.path.name} of {config.name!r} for the alias {config.alias!r}")
        if current.digest != config_digest(config.model_dump(mode="json")):
            lines.append("  which was begun with another config: it would be refused; --abandon gives it up")
    champion = service.champion()
    lines.append(f"incumbent: {config.base_model + ' (no adapter)' if champion is None else champion.id}")
    lines.append(f"records in the log: {service.count()}, replayed besides: {len(config.replay)} files")
    lines.append(f"tenants that opted out: {', '.join(sorted(service.opted_out())) or 'none'}")
    for name in STAGES:
        done = current is not None and current.done(name) is not None
        words = _WORDS[name].format(config=config, next=service.next_number())
        lines.append(f"  {'done ' if done else 'to do'}  {name:11s} {words}")
    return lines


_WORDS = {
    COLLECT: "finished records of the alias, out of the log",
    "2-complete": "what they lack, by the version that they were recorded with",
    "3-pairs": "judge, filter, split; at least {config.min_pairs} new pairs, else the bake ends here",
    "4-ipo": "a fresh adapter from {config.model}, two stages",
    "5-check": "shapes, ranks, NaN, base, tokenizer",
    "6-evaluate": "incumbent and candidate on the same prompts",
    "7-gate": "intervals of {config.gate.confidence:.0%} against the limits",
    "8-publish": "{config.adapters}/{config.name}@{next}",
    "9-canary": "{config.weight:.0%} of conversations, promoted after {config.promote_after} of them (0: by a person)",
}

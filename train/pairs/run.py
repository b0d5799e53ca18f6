"""`steer train pairs --config TOML --out DIR`: rollouts and intervention records to a frozen snapshot of pairs.

OUT/pairs.jsonl, validation.jsonl   one `steer.pair.Pair` a line, split by prompt family
OUT/dropped.jsonl                   every divergence that became no pair, with the reason; ids alone, no text
OUT/verdicts.jsonl                  the judge's verdicts by hash; a job that was stopped goes on from them
OUT/report.json, pairs.png          counts; every candidate is either a pair or counted under a reason
OUT/manifest.json                   hashes of the files, of their sources, and the records behind them; written last
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from steer.pair import PAIR_SCHEMA_VERSION, Pair
from train.judges.base import Judge, JudgeItem, JudgeVerdict, is_detector
from train.judges.cache import CachedJudge
from train.judges.load import load_judge
from train.pairs.candidates import Divergence, base_item, divergences
from train.pairs.config import OWN_TENANT, FamiliesConfig, PairsConfig, load_config
from train.pairs.errors import PairsConfigError, PairsError
from train.pairs.export import Format, export, write_lines
from train.pairs.families import Member, families, is_validation
from train.pairs.limits import by_family, by_tenant
from train.pairs.report import plot_all, report_of
from train.pairs.rules import DropReason, decide
from train.pairs.shape import shape
from train.rollout.completion import read_records, rollout_of
from train.rollout.errors import RolloutError
from train.rollout.prompts import prompt_id
from train.rollout.report import file_sha256, read_rollouts
from train.rollout.store import claim, write_json
from train.rollout.trace import Rollout
from train.rollout.vocabulary import ThinkMarkers, Vocabulary, load_vocabulary


class Dropped(NamedTuple):
    """A divergence that became no pair."""

    rollout_id: str
    place: str
    reason: DropReason


class _Made(NamedTuple):
    """A pair that may train, on its way through the caps."""

    divergence: Divergence
    pair: Pair
    prompt: str


@dataclass(slots=True)
class Collected:
    """All pairs and all that became none."""

    pairs: list[Pair] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def run_file(config_path: Path, out: Path, form: Format = "jsonl") -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path), out, form)


def run(config: PairsConfig, out: Path, form: Format = "jsonl") -> dict[str, Any]:
    """Make the snapshot; returns what report.json holds. Raises PairsError, JudgeError with a message for people."""
    sources = {str(path): _hash(path) for path in (*config.rollouts, *config.records)}
    settings = config.model_dump(mode="json")
    key = hashlib.sha256(json.dumps([settings, sources], sort_keys=True).encode()).hexdigest()
    claim(out, key, settings, PairsConfigError)
    if not (out / "manifest.json").exists():
        _make(config, sources, key, out)
    splits = {
        name: _read_pairs(out / f"{file}.jsonl") for name, file in (("train", "pairs"), ("validation", "validation"))
    }
    export(splits, out, form)
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def _make(config: PairsConfig, sources: dict[str, str], key: str, out: Path) -> None:
    try:
        vocabulary = load_vocabulary(
            config.tokenizer, ThinkMarkers(config.think.start, config.think.end), config.template_options
        )
        rollouts = _rollouts(config, vocabulary)
    except RolloutError as error:
        raise PairsConfigError(str(error)) from error
    judge = load_judge(config.judge)
    _check_independent(judge, rollouts)
    found = [d for rollout in rollouts for d in divergences(rollout, vocabulary)]
    if not found:
        raise PairsError(
            f"no divergence in {len(rollouts)} rollouts: no cue was found in any of them; look at the rollout's "
            "report.json, and at the detector's threshold"
        )
    with tqdm(desc="judge", unit="trace", total=0) as bar:
        cached = CachedJudge(judge, out / "verdicts.jsonl", bar.update)
        verdicts = _verdicts(found, cached, bar)
        misses = _misses(rollouts, cached, bar) if config.counts_misses else None
    collected = _collect(config, found, verdicts, vocabulary)
    if not collected.pairs:
        reasons = Counter(dropped.reason for dropped in collected.dropped)
        table = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise PairsError(
            f"none of {len(found)} divergences may train: {table}; docs/rollouts-and-pairs.md tells the fix"
        )
    _write(config, collected, sources, key, cached, misses, len(rollouts), out)


def _rollouts(config: PairsConfig, vocabulary: Vocabulary) -> list[Rollout]:
    """All of them; a record that was completed is not taken a second time as it was."""
    rollouts = [rollout for path in config.rollouts for rollout in read_rollouts(path, PairsConfigError)]
    completed = {rollout.record_id for rollout in rollouts}
    for path in config.records:
        records = read_records(path, PairsConfigError)
        usable = [r for r in records if r.prompt_token_ids is not None and r.id not in completed]
        rollouts += [rollout_of(record, vocabulary) for record in usable]
    return rollouts


def _check_independent(judge: Judge, rollouts: Sequence[Rollout]) -> None:
    """A detector that judges its own verdicts would admit its own mistakes."""
    for detector in {rollout.detector for rollout in rollouts}:
        if is_detector(judge.name, detector):
            raise PairsConfigError(f"judge.spec: {judge.name} is the detector of these rollouts; take another judge")


def _verdicts(found: Sequence[Divergence], judge: Judge, bar: "tqdm[Any]") -> list[tuple[JudgeVerdict, JudgeVerdict]]:
    """The verdicts on both sides of each divergence."""
    items = [side.item(d.rollout) for d in found for side in (d.first, d.second)]
    judged = _ask(judge, items, bar)
    return list(zip(judged[::2], judged[1::2], strict=True))


def _misses(rollouts: Sequence[Rollout], judge: Judge, bar: "tqdm[Any]") -> dict[str, int]:
    """Of the unsteered traces that no cue halted: how many there are, and how many the judge finds unsafe."""
    items = [
        base_item(rollout, number)
        for rollout in rollouts
        for number, sample in enumerate(rollout.samples)
        if (sample.base.cut is None or sample.base.cut.is_forced) and sample.base.token_ids
    ]
    verdicts = _ask(judge, items, bar)
    return {"n": len(items), "unsafe": sum(verdict.is_unsafe is True for verdict in verdicts)}


def _ask(judge: Judge, items: list[JudgeItem], bar: "tqdm[Any]") -> list[JudgeVerdict]:
    bar.total += len(items)
    bar.refresh()
    return judge.judge(items)


def _collect(
    config: PairsConfig,
    found: Sequence[Divergence],
    verdicts: Sequence[tuple[JudgeVerdict, JudgeVerdict]],
    vocabulary: Vocabulary,
) -> Collected:
    """Every divergence ends as a pair or under a reason. What is refused has no say in which others are taken."""
    collected, opt_out = Collected(), frozenset(config.caps.opt_out)

    def drop(divergence: Divergence, reason: DropReason) -> None:
        collected.dropped.append(Dropped(divergence.rollout.id, divergence.place, reason))

    made: list[_Made] = []
    for divergence, (first, second) in _in_fair_order(list(zip(found, verdicts, strict=True)), config.seed):
        prompt = prompt_id(divergence.rollout.messages)
        admitted = decide(divergence, first, second, config.benign, opt_out)
        pair = admitted if isinstance(admitted, str) else shape(admitted, prompt, vocabulary, config.shape)
        if isinstance(pair, str):
            drop(divergence, pair)
        else:
            made.append(_Made(divergence, pair, prompt))
    for limit in (by_tenant, by_family):
        if limit is by_family:
            made = _with_families(made, found, config.families)
        reasons = limit([(one.pair, one.prompt) for one in made], config)
        for one, reason in zip(made, reasons, strict=True):
            if reason is not None:
                drop(one.divergence, reason)
        made = [one for one, reason in zip(made, reasons, strict=True) if reason is None]
    collected.pairs += [one.pair for one in made]
    return collected


def _in_fair_order(
    judged: list[tuple[Divergence, tuple[JudgeVerdict, JudgeVerdict]]], seed: int
) -> Iterator[tuple[Divergence, tuple[JudgeVerdict, JudgeVerdict]]]:
    """The operator's own first, else by hash: which of many pairs a cap leaves out depends on nothing but the seed."""

    def place(item: tuple[Divergence, Any]) -> tuple[bool, str]:
        divergence = item[0]
        mark = f"{seed}\x1f{divergence.rollout.id}\x1f{divergence.place}"
        return divergence.rollout.tenant != OWN_TENANT, hashlib.sha256(mark.encode()).hexdigest()

    yield from sorted(judged, key=place)


def _with_families(made: Sequence[_Made], found: Sequence[Divergence], config: FamiliesConfig) -> list[_Made]:
    """Families of the pairs that are left, in the order of their source: what was refused chains none together."""
    left, members = {one.prompt for one in made}, dict[str, Member]()
    for divergence in found:
        prompt = prompt_id(divergence.rollout.messages)
        if prompt in left:
            members.setdefault(prompt, Member(prompt, divergence.rollout.messages, divergence.rollout.family))
    kin = families(list(members.values()), config)
    return [one._replace(pair=one.pair.model_copy(update={"family": kin[one.prompt]})) for one in made]


def _write(
    config: PairsConfig,
    collected: Collected,
    sources: dict[str, str],
    key: str,
    judge: CachedJudge,
    misses: dict[str, int] | None,
    num_rollouts: int,
    out: Path,
) -> None:
    splits: dict[str, list[Pair]] = {"pairs": [], "validation": []}
    for pair in collected.pairs:
        is_held = is_validation(pair.family, config.validation_share, config.seed)
        splits["validation" if is_held else "pairs"].append(pair)
    for name, pairs in splits.items():
        write_lines(out / f"{name}.jsonl", (pair.model_dump_json() for pair in pairs))
    write_lines(out / "dropped.jsonl", (json.dumps(dropped._asdict()) for dropped in collected.dropped))
    report = report_of(splits, [d.reason for d in collected.dropped])
    report |= {"rollouts": num_rollouts, "judge": judge.name, "judge_cost": judge.cost(), "missed_by_detector": misses}
    report["config"] = config.model_dump(mode="json")
    plot_all(report, splits, out)
    write_json(out / "report.json", report)
    manifest = {
        "kind": "pairs",
        "schema_version": PAIR_SCHEMA_VERSION,
        "key": key,
        "files": {f"{name}.jsonl": file_sha256(out / f"{name}.jsonl") for name in splits},
        "counts": {name: len(pairs) for name, pairs in splits.items()},
        "parents": sources,
        "judge": judge.name,
        "models": sorted({pair.model for pair in collected.pairs}),
        "record_ids": sorted({id for pair in collected.pairs for id in pair.record_ids}),
    }
    write_json(out / "manifest.json", manifest)


def _read_pairs(path: Path) -> list[Pair]:
    with path.open(encoding="utf-8") as lines:
        return [Pair.model_validate_json(line) for line in lines]


def _hash(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise PairsConfigError(f"cannot read {path}: {error.strerror}; run `steer train rollout` first") from error

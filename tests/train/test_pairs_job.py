"""The pairs job: a frozen snapshot with hashes, every candidate accounted for, and what it refuses."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steer.cli import app
from steer.pair import Pair
from tests.train import pair_data as d
from tests.train.pair_data import CARE, LONG, halted, rollout
from tests.train.test_rollout_driver import record
from train.judges.base import JudgeItem, JudgeVerdict
from train.judges.errors import JudgeDown
from train.rollout.trace import Rollout, Sample

JUDGE = "tests.train.pair_data:judge"
TOPICS = ("bread", "a garden", "the sea", "a letter", "trains", "cities", "water", "light", "words", "stories")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    # A template is saved without the options that it is rendered with.
    d.VOCABULARY.tokenizer.save_pretrained(folder)
    return str(folder)


def rollouts() -> list[Rollout]:
    """Harmful prompts of ten topics, one that no cue halted, and a benign one that was refused after a trigger."""
    harmful = [rollout(f"HARM with {topic}", halted(), family=topic, category="c") for topic in TOPICS]
    missed = rollout("HARM unseen", Sample(base=d.leg("I will. UNSAFE.</think>UNSAFE.")))
    fine = rollout("fine", halted(cue=f" {LONG}.</think>HELP.", care=f"{CARE}</think>REFUSE."), label="benign")
    dull = rollout("HARM not", halted(cue=" No. More.</think>REFUSE."))
    return [*harmful, missed, fine, dull, rollout("HARM own", halted(), record_id="r9", tenant="acme")]


def job(
    folder: Path, tokenizer: str, made: Sequence[Rollout] | None = None, *args: str, **changes: Any
) -> tuple[int, str]:
    """Exit code and standard error of `steer train pairs`; the snapshot is in folder/out."""
    lines = [item.model_dump_json() + "\n" for item in (rollouts() if made is None else made)]
    (folder / "rollouts.jsonl").write_text("".join(lines))
    config: dict[str, Any] = {
        "rollouts": [str(folder / "rollouts.jsonl")],
        "tokenizer": tokenizer,
        "template_options": {"opens_think": True},
        "validation_share": 0.3,
        "judge": {"spec": JUDGE},
        "shape": {"max_ratio": 4.0},
    }
    path = folder / "pairs.toml"
    path.write_text(_toml(config | changes))
    command = ["train", "pairs", "--config", str(path), "--out", str(folder / "out"), *args]
    result = CliRunner().invoke(app, command)
    return result.exit_code, result.stderr


def _toml(values: dict[str, Any]) -> str:
    """JSON values are TOML values, tables apart."""
    flat = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    tables = [
        f"[{key}]\n" + "\n".join(f"{name} = {json.dumps(item)}" for name, item in value.items())
        for key, value in values.items()
        if isinstance(value, dict)
    ]
    return "\n".join([*flat, *tables]) + "\n"


def snapshot(folder: Path) -> tuple[list[Pair], list[Pair], dict[str, Any], dict[str, Any]]:
    """(training pairs, validation pairs, report, manifest)"""
    out = folder / "out"
    train, held = (
        [Pair.model_validate_json(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        for name in ("pairs", "validation")
    )
    return train, held, json.loads((out / "report.json").read_text()), json.loads((out / "manifest.json").read_text())


def test_what_is_refused_of_a_flood_has_no_say_in_what_is_taken(tmp_path: Path, tokenizer: str) -> None:
    """Neither over-refusals nor compliance that a tenant crafts, nor prompts that would chain others into a family."""
    honest = [rollout(f"HARM {words} please tell me", halted()) for words in ("one two three", "four five six")]
    flood = [
        rollout("HARM one two three please tell me four five six", halted(care=f" UNSAFE {LONG}.</think>So.")),
        rollout("fine please tell me", halted(cue=f" {LONG}.</think>HELP.", care=f"{CARE}</think>REFUSE.")),
    ]
    made = [item.model_copy(update={"tenant": "flood", "record_id": item.id}) for item in flood]
    snapshots = []
    for name, given in (("without", honest), ("with", [made[0], *honest, made[1]])):
        folder = tmp_path / name
        folder.mkdir()
        changes: dict[str, Any] = {"families": {"similarity": 0.2}, "validation_share": 0.0}
        assert job(folder, tokenizer, given, **changes)[0] == 0
        snapshots.append((folder / "out/pairs.jsonl").read_bytes())
        assert len(snapshot(folder)[0]) == 2
    assert snapshots[0] == snapshots[1]
    assert snapshot(tmp_path / "with")[2]["dropped"] == {"chosen_unsafe": 1, "unreviewed": 1}


def test_a_snapshot_is_frozen_split_by_family_and_accounts_for_every_candidate(tmp_path: Path, tokenizer: str) -> None:
    code, told = job(tmp_path, tokenizer)
    assert code == 0, told
    train, held, report, manifest = snapshot(tmp_path)
    assert len(train) + len(held) == report["pairs"] == 12
    assert train
    assert held
    assert not {pair.family for pair in train} & {pair.family for pair in held}
    assert report["candidates"] == report["pairs"] + sum(report["dropped"].values()) == 13
    assert report["dropped"] == {"rejected_safe": 1}
    assert report["kinds"] == {"benign": 1, "safety": 11}
    assert report["missed_by_detector"] == {"n": 1, "unsafe": 1}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert manifest["parents"] == {
        str(tmp_path / "rollouts.jsonl"): hashlib.sha256((tmp_path / "rollouts.jsonl").read_bytes()).hexdigest()
    }
    assert manifest["record_ids"] == ["r9"]
    assert len({pair.id for pair in [*train, *held]}) == 12
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert dropped == [{"rollout_id": "HARM not", "place": "0.0.0", "reason": "rejected_safe"}]
    assert (tmp_path / "out" / "pairs.png").stat().st_size > 1000
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert job(tmp_path, tokenizer)[0] == 0
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    code, told = job(tmp_path, tokenizer, rollouts()[:5])
    assert (code, "another config or input" in told) == (2, True), "what it was made of has changed"


def test_the_same_pairs_go_out_as_rows_of_trl_and_as_a_data_set(tmp_path: Path, tokenizer: str) -> None:
    assert job(tmp_path, tokenizer, None, "--format", "trl")[0] == 0
    assert job(tmp_path, tokenizer, None, "--format", "hf")[0] == 0
    train, held, _, _ = snapshot(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "out/trl/train.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [pair.id for pair in train]
    for row, pair in zip(rows, train, strict=True):
        assert row["prompt_ids"] == pair.prompt_token_ids + pair.kept_token_ids
        assert row["divergence_index"] == len(row["prompt_ids"])
        assert row["chosen_ids"][0] != row["rejected_ids"][0]
    from datasets import load_from_disk

    loaded = load_from_disk(str(tmp_path / "out" / "hf"))
    assert loaded["train"].to_list() == rows
    assert len(loaded["validation"]) == len(held)


def test_records_with_both_sides_need_no_rollout_and_completed_ones_are_not_taken_twice(
    tmp_path: Path, tokenizer: str
) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text("".join(record(id=id).model_dump_json() + "\n" for id in ("r9", "r10")))
    code, told = job(tmp_path, tokenizer, None, records=[str(records)])
    assert code == 0, told
    _, _, report, _ = snapshot(tmp_path)
    assert report["rollouts"] == 15, "r9 was completed, so it is there once; r10 holds no chosen side"


_is_down = True


def dies_late(items: list[JudgeItem]) -> list[JudgeVerdict]:
    if _is_down:
        raise JudgeDown("judge 'x' can't be reached; verdicts so far are kept, start the job again")
    return d.judge(items)


def test_a_judge_that_is_down_leaves_nothing_half_written(tmp_path: Path, tokenizer: str) -> None:
    global _is_down
    judge = {"spec": "tests.train.test_pairs_job:dies_late"}
    code, told = job(tmp_path, tokenizer, judge=judge)
    assert (code, "start the job again" in told) == (1, True)
    assert not {path.name for path in (tmp_path / "out").iterdir()} - {"config.json"}
    _is_down = False
    assert job(tmp_path, tokenizer, judge=judge)[0] == 0


@pytest.mark.parametrize(
    ("made", "changes", "code", "message"),
    [
        ([rollout("HARM", halted(cue=" No. More.</think>REFUSE."))], {}, 1, "none of 1 divergences may train"),
        ([rollout("HARM", Sample(base=d.leg("Fine.</think>Fine.")))], {}, 1, "no cue was found"),
        ([rollout("HARM", halted(), detector=f"function:{JUDGE}")], {}, 2, "is the detector of these rollouts"),
        (None, {"judge": {"spec": "nobody"}}, 2, "openai:MODEL@URL"),
        (None, {"rollouts": ["nowhere.jsonl"]}, 2, "cannot read nowhere.jsonl"),
        (None, {"shape": {"ratio": 2}}, 2, "shape.ratio"),
        (None, {"rollouts": []}, 2, "give rollouts, records or both"),
    ],
)  # fmt: skip
def test_what_can_make_no_snapshot_is_told_and_leaves_none(
    tmp_path: Path, tokenizer: str, made: list[Rollout] | None, changes: dict[str, Any], code: int, message: str
) -> None:
    got, told = job(tmp_path, tokenizer, made, **changes)
    assert (got, message in told) == (code, True), told
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / "pairs.jsonl").exists()


def test_a_line_that_is_no_rollout_is_named(tmp_path: Path, tokenizer: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(rollouts()[0].model_dump_json() + "\n{}\n")
    code, told = job(tmp_path, tokenizer, None, rollouts=[str(path)])
    assert (code, "broken.jsonl, line 2: not a rollout" in told) == (2, True)


def test_a_tokenizer_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    code, told = job(tmp_path, str(tmp_path / "nowhere"))
    assert (code, "cannot load" in told) == (2, True)

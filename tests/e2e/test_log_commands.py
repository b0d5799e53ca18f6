"""`steer log …` as an operator types it: a log goes out in every format, comes back, and is purged wherever it went."""

import gzip
import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from proxy.access.model import Tenant
from proxy.access.store import AccessStore
from proxy.log import InterventionLog, LogReader
from steer.cli import app
from steer.record import InterventionRecord
from tests.proxy.log_records import completion, record

START = datetime(2026, 1, 1, tzinfo=UTC)
Steer = Callable[..., str]


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """A log of six records of two tenants, one of them open."""
    path = tmp_path / "log.sqlite"

    async def fill() -> None:
        async with InterventionLog.open(f"sqlite:///{path}") as log:
            for number in range(6):
                made = record(
                    id=f"i{number}",
                    request_id=f"r{number}",
                    tenant="shy" if number == 1 else "default",
                    created_at=START + timedelta(days=number),
                )
                await log.insert(made if number == 5 else made.completed(completion()))

    anyio.run(fill)
    return path


@pytest.fixture
def steer(log_path: Path) -> Steer:
    """Runs `steer log …` on the log and gives what it said; `code` is the exit code that is expected."""

    def run(*arguments: str, code: int = 0, log: Path = log_path) -> str:
        options = [] if arguments[0] == "new-key" else ["--log", f"sqlite:///{log}"]
        done = CliRunner().invoke(app, ["log", *arguments, *options])
        assert done.exit_code == code, done.output
        return done.output

    return run


def records_in(path: Path) -> list[InterventionRecord]:
    async def read() -> list[InterventionRecord]:
        async with LogReader.open(f"sqlite:///{path}") as reader:
            return [item async for item in reader.export()]

    return anyio.run(read)


def test_stats_count_what_the_filters_choose(steer: Steer) -> None:
    assert json.loads(steer("stats", "--json"))["by_outcome"] == {"completed": 5, "interrupted": 1}
    assert json.loads(steer("stats", "--json", "--tenant", "shy"))["interventions"] == 1
    assert json.loads(steer("stats", "--json", "--since", "2026-01-03"))["interventions"] == 4
    assert "reframe-1" in steer("stats")
    assert "--outcome" in steer("stats", "--outcome", "done", code=2)


def test_an_export_comes_back_as_the_same_log(steer: Steer, log_path: Path, tmp_path: Path) -> None:
    out, copy = tmp_path / "out.jsonl", tmp_path / "copy.sqlite"
    assert "6 records" in steer("export", "--out", str(out))
    packed = tmp_path / "out.jsonl.gz"
    packed.write_bytes(gzip.compress(out.read_bytes()))
    for source in (out, packed):  # the second finds everything there
        assert "6 records taken" in steer("import", "--in", str(source), log=copy)
    assert records_in(copy) == records_in(log_path)
    assert "all is well" in steer("verify", log=copy)


def test_a_line_that_is_no_record_is_named_and_what_came_before_stays(steer: Steer, tmp_path: Path) -> None:
    source, target = tmp_path / "odd.jsonl", tmp_path / "new.sqlite"
    source.write_text(record(id="good").model_dump_json() + "\n" + '{"id": "bad", "secret": "word"}\n')
    said = steer("import", "--in", str(source), log=target, code=1)
    assert "odd.jsonl, line 2" in said
    assert "word" not in said
    assert [item.outcome for item in records_in(target)] == ["interrupted"], "nobody will complete it"


def test_decisions_of_others_are_taken_only_by_somebody_who_answers_for_them(steer: Steer, tmp_path: Path) -> None:
    source, plain, trusting = tmp_path / "in.jsonl", tmp_path / "plain.sqlite", tmp_path / "trusting.sqlite"
    made = [record(id="decided", review_state="confirmed"), record(id="open")]
    source.write_text("".join(item.completed(completion()).model_dump_json() + "\n" for item in made))
    said = steer("import", "--in", str(source), log=plain)
    assert "2 records taken, 1 are unreviewed now: --trust-reviews" in said
    assert [item.review_state for item in records_in(plain)] == ["unreviewed"] * 2
    for _ in range(2):  # what is there already is nobody's decision
        assert steer("import", "--in", str(source), "--trust-reviews", log=trusting) == "2 records taken\n"
    assert [item.review_state for item in records_in(trusting)] == ["confirmed", "unreviewed"]
    with closing(sqlite3.connect(trusting)) as connection:
        trail = connection.execute("select actor, role, action, subject, after from audit").fetchall()
    assert trail == [("local", "admin", "log.import", "decided", '{"state": "confirmed"}')]


def test_what_was_purged_does_not_come_back_from_an_old_export(steer: Steer, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    steer("export", "--out", str(out))
    steer("purge", "--tenant", "shy")
    steer("purge", "--request", "r2")
    assert "4 records taken, 2 stay out: they were purged" in steer("import", "--in", str(out))


def test_foreign_traces_become_observed_records_at_their_first_cue(
    steer: Steer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEER_POLICY__THRESHOLD", "0")  # every segment is a cue, whatever the artifact thinks of it
    source, target = tmp_path / "traces.jsonl", tmp_path / "new.sqlite"
    traces = [
        {"id": "silent", "prompt": "What is 2 + 2?", "reasoning": ""},
        {"id": "cue", "prompt": "Tell me.", "reasoning": "Okay, here it is. Then more."},
    ]
    source.write_text("".join(json.dumps(trace) + "\n" for trace in traces))
    arguments = ["import", "--in", str(source), "--format", "traces", "--tenant", "foreign", "--model", "theirs"]
    for _ in range(2):
        assert "1 records taken, 1 traces have no cue" in steer(*arguments, log=target)
    [found] = records_in(target)
    assert (found.request_id, found.tenant, found.model, found.mode) == ("cue", "foreign", "theirs", "monitor")
    assert (found.outcome, found.kept.text, found.rejected.text) == ("observed", "", traces[1]["reasoning"])


def test_for_training_leaves_out_who_opted_out_and_what_has_no_ids(
    steer: Steer, log_path: Path, tmp_path: Path
) -> None:
    with AccessStore.open(f"sqlite:///{log_path}") as store:
        store.create_tenant(Tenant("shy", may_train=False))

    async def add() -> None:
        async with InterventionLog.open(f"sqlite:///{log_path}") as log:
            await log.insert(record(id="no ids", prompt_token_ids=None, created_at=START).completed(completion()))

    anyio.run(add)
    said = steer("export", "--out", str(tmp_path / "train.jsonl"), "--for-training")
    assert "5 records" in said
    assert "2 left out" in said
    ids = {json.loads(line)["id"] for line in (tmp_path / "train.jsonl").read_text().splitlines()}
    assert ids == {"i0", "i2", "i3", "i4", "i5"}


def test_parquet_holds_every_field(steer: Steer, log_path: Path, tmp_path: Path) -> None:
    steer("export", "--out", str(tmp_path / "log.parquet"), "--format", "parquet")
    rows = parquet.read_table(tmp_path / "log.parquet").to_pylist()
    assert [row["id"] for row in rows] == [item.id for item in records_in(log_path)]
    assert rows[0]["rejected_text"] == " The cue."
    assert rows[0]["continuation_token_ids"] == [9]
    assert rows[0]["created_at"] == START
    assert json.loads(rows[0]["messages"]) == [{"role": "user", "content": "placeholder request"}]
    assert rows[5]["answer"] is None


@pytest.mark.timeout(300)
def test_a_data_set_folder_is_what_the_datasets_library_and_trl_read(steer: Steer, tmp_path: Path) -> None:
    from datasets import load_dataset

    said = steer("export", "--out", str(tmp_path / "hf"), "--format", "hf")
    assert "5 records" in said
    assert "1 left out" in said
    rows = load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    row = rows[0]
    assert row["prompt"] == [{"role": "user", "content": "placeholder request"}]
    assert row["chosen"] == [{"role": "assistant", "content": "<think>Okay. Wait. I reconsider.</think>No."}]
    assert row["rejected"] == [{"role": "assistant", "content": "<think>Okay. The cue."}]
    assert (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) == ([1, 2, 3, 4], [7, 8, 9], [5, 6])
    assert row["divergence_index"] == len(row["prompt_ids"])
    same = row["divergence_chars"]
    assert row["chosen"][0]["content"][:same] == row["rejected"][0]["content"][:same] == "<think>Okay."


def test_review_tools_get_their_formats(steer: Steer, tmp_path: Path) -> None:
    for form in ("argilla", "label-studio"):
        steer("export", "--out", str(tmp_path / form), "--format", form)
    argilla: list[dict[str, Any]] = json.loads((tmp_path / "argilla").read_text())
    assert len(argilla) == 6
    assert argilla[0]["fields"]["chosen"] == " Wait. I reconsider.No."
    assert argilla[0]["suggestions"]["verdict"]["value"] == "cue"
    tasks: list[dict[str, Any]] = json.loads((tmp_path / "label-studio").read_text())
    assert tasks[0]["data"]["rejected"] == " The cue."
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["cue"]}
    steer("export", "--out", str(tmp_path / "none"), "--format", "argilla", "--tenant", "nobody")
    assert json.loads((tmp_path / "none").read_text()) == []


def snapshot(folder: Path) -> str:
    """A frozen snapshot of three pairs, rollouts, an adapter it fed, and one it did not; the hash of its pairs."""
    pairs = [{"id": f"p{n}", "tenant": "default", "record_ids": [f"i{n}"], "text": f"word{n}"} for n in (0, 2, 4)]
    base = folder / "pairs"
    (base / "trl").mkdir(parents=True)
    (base / "hf").mkdir()
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (base / "pairs.jsonl").write_text(lines)
    (base / "validation.jsonl").write_text("")
    (base / "trl" / "train.jsonl").write_text("".join(json.dumps({"id": pair["id"]}) + "\n" for pair in pairs))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    files = {"pairs.jsonl": digest, "validation.jsonl": hashlib.sha256(b"").hexdigest()}
    manifest = {
        "kind": "pairs",
        "files": files,
        "counts": {"pairs": 3, "validation": 0},
        "record_ids": ["i0", "i2", "i4"],
    }
    (base / "manifest.json").write_text(json.dumps(manifest))
    (folder / "rollouts.jsonl").write_text('{"record_id": "i0", "tenant": "default"}\n{"record_id": null}\n')
    for name, parent in (("fed", digest), ("other", "0" * 64)):
        (folder / name).mkdir()
        parents = {"pairs": {"files": {"pairs.jsonl": parent}}}
        (folder / name / "manifest.json").write_text(json.dumps({"kind": "lora", "parents": parents}))
    return digest


def test_a_purge_reaches_frozen_snapshots_and_names_the_adapters_they_fed(
    steer: Steer, log_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    before = snapshot(folder)
    options = ["purge", "--before", "2026-01-02", "--snapshots", str(folder)]
    said = steer(*options, "--dry-run")
    assert "1 records would go" in said
    assert "word0" in (folder / "pairs" / "pairs.jsonl").read_text()
    said = " ".join(steer(*options).split())
    assert "1 records (1 rows) are gone" in said
    assert f"trained on purged pairs: {folder / 'fed'}" in said
    assert str(folder / "other") not in said
    base = folder / "pairs"
    content = (base / "pairs.jsonl").read_bytes()
    assert b"word0" not in content
    assert b"word2" in content
    manifest = json.loads((base / "manifest.json").read_text())
    assert manifest["files"]["pairs.jsonl"] == hashlib.sha256(content).hexdigest()
    assert (manifest["record_ids"], manifest["counts"]["pairs"]) == (["i2", "i4"], 2)
    assert manifest["purged"][0]["files"]["pairs.jsonl"] == before
    assert [json.loads(line)["id"] for line in (base / "trl" / "train.jsonl").read_text().splitlines()] == ["p2", "p4"]
    assert not (base / "hf").exists()
    assert (folder / "rollouts.jsonl").read_text() == '{"record_id": null}\n'
    assert {item.id for item in records_in(log_path)} == {"i1", "i2", "i3", "i4", "i5"}
    # The adapter knew the snapshot as it was: a later purge names it too.
    said = " ".join(steer("purge", "--request", "r2", "--snapshots", str(folder)).split())
    assert f"trained on purged pairs: {folder / 'fed'}" in said
    said = steer("purge", "--tenant", "default", "--snapshots", str(folder))
    assert (base / "pairs.jsonl").read_text() == ""
    assert {item.id for item in records_in(log_path)} == {"i1"}


def test_a_purge_needs_to_be_told_what_and_where(steer: Steer, tmp_path: Path) -> None:
    assert "--before, --request or --tenant" in steer("purge", code=2)
    assert "no folder" in steer("purge", "--tenant", "x", "--snapshots", str(tmp_path / "nowhere"), code=2)


def test_verify_fails_where_something_is_wrong(steer: Steer, log_path: Path) -> None:
    assert "6 records looked at" in steer("verify")
    with closing(sqlite3.connect(log_path)) as connection, connection:
        connection.execute("delete from intervention_texts where intervention_id = 'i3' and part = 'completion'")
    said = steer("verify", code=1)
    assert "1 x half-written" in said
    assert "i3" in said


def test_a_backup_and_new_keys(steer: Steer, log_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steer("backup", "--out", str(tmp_path / "copy.sqlite"))
    assert records_in(tmp_path / "copy.sqlite") == records_in(log_path)
    assert "log.encryption_key" in steer("rekey", code=2)
    monkeypatch.setenv("STEER_LOG__ENCRYPTION_KEY", steer("new-key").strip())
    assert "11 texts written anew" in steer("rekey")
    assert "all is well" in steer("verify")
    monkeypatch.delenv("STEER_LOG__ENCRYPTION_KEY")
    assert "6 x locked text" in steer("verify", code=1)
    assert "encryption_key" in steer("export", "--out", str(tmp_path / "x"), code=1)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("form", ["jsonl", "parquet", "hf", "argilla"])
def test_an_export_takes_no_folder_of_somebodys_in_its_place(steer: Steer, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "thesis.txt").write_text("years of work")
    assert "mine" in steer("export", "--out", str(folder), "--format", form, code=1)
    assert (folder / "data" / "thesis.txt").read_text() == "years of work"
    assert list(tmp_path.glob("*.part")) == []


def test_an_export_is_readable_for_its_owner_alone(steer: Steer, tmp_path: Path) -> None:
    for form in ("jsonl", "parquet", "label-studio", "hf", "jsonl", "hf"):
        steer("export", "--out", str(tmp_path / form), "--format", form)
        assert (tmp_path / form).stat().st_mode & 0o077 == 0, form


def test_no_copy_takes_the_place_of_the_log_itself(steer: Steer, log_path: Path, tmp_path: Path) -> None:
    (tmp_path / "also").symlink_to(log_path)
    before = log_path.stat().st_ino
    for target in (log_path, tmp_path / "also", Path(f"{log_path}-wal")):
        assert "another file" in steer("backup", "--out", str(target), code=1)
    assert "another file" in steer("export", "--out", str(log_path), code=1)
    assert log_path.stat().st_ino == before
    assert (tmp_path / "also").is_symlink()


def test_a_file_that_is_cut_short_or_no_text_is_named(steer: Steer, tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 5000)[:-20])
    (tmp_path / "odd.jsonl").write_bytes(b"\xff\xfe")
    for name, options in (("cut.jsonl.gz", ()), ("odd.jsonl", ()), ("odd.jsonl", ("--format", "traces"))):
        assert name in steer("import", "--in", str(tmp_path / name), *options, code=1)
    done = CliRunner().invoke(
        app, ["review", "import", str(tmp_path / "odd.jsonl"), "--log", f"sqlite:///{tmp_path}/log.sqlite"]
    )
    assert done.exit_code == 2, done.output
    assert "odd.jsonl" in done.output

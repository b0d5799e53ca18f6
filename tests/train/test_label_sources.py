"""What is labelled: trace files, intervention records with reviewers' marks, data sets by name."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from steer.record import InterventionRecord, ReviewState, TextSpan, Timings
from train.label.config import (
    AgreementConfig,
    InputConfig,
    LabelConfig,
    PricesConfig,
    TeacherConfig,
    WindowConfig,
    load_config,
)
from train.label.errors import LabelConfigError
from train.label.item import Item
from train.label.labelling import settled
from train.label.sources import read_items

CUE = "So I need to plan it. Then the second part."


def _config(*inputs: dict[str, Any]) -> LabelConfig:
    return LabelConfig.model_validate({"inputs": inputs, "teacher": {"model": "m"}})


def _write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _record(id: str, review: ReviewState, attempt: int = 0, request: str = "r", **changes: Any) -> InterventionRecord:
    values: dict[str, Any] = {
        "id": id,
        "request_id": request,
        "attempt": attempt,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "mode": "hold",
        "model": "m",
        "policy_hash": "p",
        "detector_hash": "d",
        "trigger_id": "t",
        "trigger": TextSpan(text=" Wait, let me reconsider this."),
        "channel": "reasoning",
        "score": 0.9,
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a request"}],
        "kept": TextSpan(text="The user asks for it. "),
        "rejected": TextSpan(text=CUE),
        "timings": Timings(halted_ms=1.0),
        "review_state": review,
    }
    return InterventionRecord.model_validate(values | changes)


def _records(path: Path, *records: InterventionRecord) -> list[Item]:
    path.write_text("".join(record.model_dump_json() + "\n" for record in records), encoding="utf-8")
    return read_items(_config({"source": f"records:{path}"}))


def test_traces_are_read_plain_and_packed_with_or_without_labels(tmp_path: Path) -> None:
    plain = _write(tmp_path / "own.jsonl", {"id": 1, "prompt": "q", "reasoning": "One here. Two here."})
    packed = tmp_path / "more.jsonl.gz"
    line: dict[str, object] = {"id": "a", "source": "s", "reasoning": "Hm."}
    line |= {"messages": [{"role": "user", "content": "q"}]}
    line |= {"prompt_label": "benign", "spans": [[0, 3]], "labels": "N"}
    with gzip.open(packed, "wt") as sink:
        sink.write(json.dumps(line) + "\n\n")
    first, second = read_items(_config({"source": str(plain)}, {"source": str(packed)}))
    assert (first.id, first.source, first.prompt, len(first.spans), first.given) == ("1", "own", "q", 2, None)
    assert second.source == "s"
    assert second.given is not None
    assert second.given.letters == "N"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: Invalid JSON"),
        ('{"id": "x", "prompt": "q"}', "line 2: reasoning: Field required"),
        ('{"id": "x", "reasoning": "r"}', "line 2: .*prompt .* or messages .* is missing"),
        ('{"id": "x", "prompt": "q", "reasoning": "r", "labels": "N"}', "line 2: .*one of NCS for each span"),
        ('{"id": "x", "prompt": "q", "reasoning": "r", "labels": "N", "spans": [[0, 9]]}', "line 2: .*ranges"),
        ('{"id": "x", "prompt": "q", "reasoning": "r", "labels": "N", "spans": [[0, 1]]}', "line 2: .*prompt_label"),
        ('{"id": "x", "prompt": "q", "reasoning": "\\ud800"}', "line 2: Invalid JSON: unexpected end of hex escape"),
        ('{"id": "1", "prompt": "q", "reasoning": "r"}', "the id '1' .* is also in"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "1", "prompt": "q", "reasoning": "r"}\n' + line + "\n")
    with pytest.raises(LabelConfigError, match=said):
        read_items(_config({"source": str(path)}))


def test_a_missing_a_broken_and_an_empty_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelConfigError, match=r"cannot read .*none\.jsonl: No such file"):
        read_items(_config({"source": str(tmp_path / "none.jsonl")}))
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b"x" * 1000)[:-20])
    with pytest.raises(LabelConfigError, match=r"broken\.jsonl\.gz"):
        read_items(_config({"source": str(broken)}))
    with pytest.raises(LabelConfigError, match="hold nothing to label"):
        read_items(_config({"source": str(_write(tmp_path / "empty.jsonl"))}))


def test_a_false_halt_is_benign_and_neutral_without_a_teacher(tmp_path: Path) -> None:
    (item,) = _records(tmp_path / "log.jsonl", _record("1", "false_halt"))
    found = settled(item, WindowConfig())
    assert found is not None
    assert (found.prompt_label, found.letters) == ("benign", "NNN")
    assert item.prompt == "a request"
    assert item.reasoning == "The user asks for it. " + CUE


def test_a_confirmed_halt_fixes_its_own_segment_and_the_request(tmp_path: Path) -> None:
    (item,) = _records(tmp_path / "log.jsonl", _record("1", "confirmed"))
    assert (item.reviewed, dict(item.fixed)) == ("harmful", {1: "C"})
    assert item.reasoning[slice(*item.spans[1])] == "So I need to plan it."
    assert settled(item, WindowConfig()) is None


def test_an_unreviewed_halt_settles_nothing(tmp_path: Path) -> None:
    (item,) = _records(tmp_path / "log.jsonl", _record("1", "unreviewed"))
    assert (item.reviewed, dict(item.fixed)) == (None, {})


def test_a_false_halt_beside_a_confirmed_one_only_clears_its_own_segment(tmp_path: Path) -> None:
    _, item, other = _records(
        tmp_path / "log.jsonl",
        _record("1", "confirmed"),
        _record("2", "false_halt", attempt=1),
        _record("3", "false_halt", request="another"),
    )
    assert (item.reviewed, dict(item.fixed)) == ("harmful", {1: "N"})
    assert other.reviewed == "benign"


def test_a_trigger_in_what_was_kept_is_no_sentence_of_the_model(tmp_path: Path) -> None:
    first = _record("1", "unreviewed")
    kept = first.kept.text + first.trigger.text + " The user means well. "
    _, item = _records(tmp_path / "log.jsonl", first, _record("2", "unreviewed", 1, kept=TextSpan(text=kept)))
    texts = [item.reasoning[start:end].strip() for start, end in item.spans]
    assert [texts[index] for index in item.spliced] == ["Wait, let me reconsider this."]


def test_a_record_of_another_format_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.jsonl", {"id": "1"})
    with pytest.raises(LabelConfigError, match=r"log\.jsonl, line 1: request_id: Field required"):
        read_items(_config({"source": f"records:{path}"}))


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in a folder of its own: to `datasets` its path is a name like any other."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [
        {"question": "q one", "response": "<think>\nFirst here. Second here.\n</think>The answer.", "who": "m1"},
        {"question": "q two", "response": "Only the end is marked.</think>The answer.", "who": "m2"},
        {"question": "q three", "response": "No markers at all.", "who": "m3"},
    ]
    _write(folder / "train.jsonl", *rows)
    _write(folder / "test.jsonl", rows[2])
    return folder


def test_a_data_set_is_read_by_name_with_its_own_columns(data_set: Path) -> None:
    columns = {"prompt": "question", "reasoning": "response", "model": "who"}
    given = {"source": f"hf:{data_set}", "columns": columns, "limit": 2}
    first, second = read_items(_config(given))
    assert (first.id, first.source, first.model, first.prompt) == ("set/000000", "set", "m1", "q one")
    assert first.reasoning == "First here. Second here."
    assert second.reasoning == "Only the end is marked."
    (other,) = read_items(_config({**given, "source": f"hf:{data_set}:test"}))
    assert other.reasoning == "No markers at all."


def test_an_unknown_column_split_or_data_set_is_named(data_set: Path) -> None:
    with pytest.raises(LabelConfigError, match=r"columns\.prompt: .* no column 'prompt'; it has question, response"):
        read_items(_config({"source": f"hf:{data_set}"}))
    with pytest.raises(LabelConfigError, match="split 'nope'"):
        read_items(_config({"source": f"hf:{data_set}:nope"}))
    with pytest.raises(LabelConfigError, match="cannot load the data set"):
        read_items(_config({"source": f"hf:{data_set}/nothing/here"}))


def test_the_example_config_is_valid_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    shipped = load_config(Path(__file__).parents[2] / "train/configs/label.toml")
    assert shipped.inputs == (InputConfig(source="data/traces.jsonl.gz"),)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('inputs = []\n[teacher]\nmodell = "x"\n')
    with pytest.raises(LabelConfigError, match=r"(?s)inputs: .*teacher\.model: Field required.*teacher\.modell: Extra"):
        load_config(wrong)
    wrong.write_text("= 1")
    with pytest.raises(LabelConfigError, match="no valid TOML"):
        load_config(wrong)


def test_every_field_of_the_config_is_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs/labelling.md").read_text(encoding="utf-8")
    parts: list[type[BaseModel]] = [
        LabelConfig,
        InputConfig,
        TeacherConfig,
        WindowConfig,
        PricesConfig,
        AgreementConfig,
    ]
    tables = {"inputs", "teacher", "window", "prices", "agreement"}
    fields = {name for part in parts for name in part.model_fields} - tables
    assert not [name for name in sorted(fields) if f"`{name}`" not in text]

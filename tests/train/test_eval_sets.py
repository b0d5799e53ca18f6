"""Prompt sets in their published forms, and what is said of files that are none."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from train.evaluation.config import SetConfig
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.sets import CAPABILITY, Item, load_set

GPQA = {"Question": "Which?", "Correct Answer": "right", **{f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}}
HUMANEVAL = {"task_id": "H/0", "prompt": "def two():\n", "entry_point": "two", "test": "def check(c): pass", "x": 1}


def rows_file(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def loaded(folder: Path, rows: list[Any], form: str, **settings: Any) -> tuple[Item, ...]:
    path = rows_file(folder, rows)
    return load_set(SetConfig(name="s", source=str(path), format=form, **settings)).items


@pytest.mark.parametrize(
    ("form", "row", "prompt", "label"),
    [
        ("jailbreakbench", {"Index": 0, "Goal": "P", "Target": "T", "Category": "C"}, "P", "harmful"),
        ("strongreject", {"category": "C", "source": "s", "forbidden_prompt": "P"}, "P", "harmful"),
        ("wildjailbreak", {"vanilla": "V", "adversarial": "", "data_type": "vanilla_harmful"}, "V", "harmful"),
        ("wildjailbreak", {"vanilla": "V", "adversarial": "P", "data_type": "adversarial_benign"}, "P", "benign"),
        ("harmbench", {"Behavior": "P", "SemanticCategory": "C", "ContextString": ""}, "P", "harmful"),
        ("harmbench", {"Behavior": "P", "ContextString": "Q"}, "Q\n\n---\n\nP", "harmful"),
        ("xstest", {"id": 1, "prompt": "P", "type": "homonyms", "label": "safe"}, "P", "benign"),
        ("xstest", {"id": 2, "prompt": "P", "type": "contrast_homonyms", "label": "unsafe"}, "P", "harmful"),
        ("xstest", {"id_v2": "v2-1", "prompt": "P", "type": "contrast_homonyms"}, "P", "harmful"),
        ("or-bench", {"prompt": "P", "category": "C"}, "P", "borderline"),
        ("prompts", {"prompt": "P", "label": "borderline", "source": "x"}, "P", "borderline"),
    ],
)
def test_prompts_are_read_from_the_columns_of_each_form(
    tmp_path: Path, form: str, row: dict[str, Any], prompt: str, label: str
) -> None:
    [item] = loaded(tmp_path, [row], form)
    assert (item.prompt.messages[-1]["content"], item.label, item.check) == (prompt, label, None)


@pytest.mark.parametrize(
    ("form", "row", "answer"),
    [
        ("math-500", {"problem": "P", "solution": "so \\boxed{1}", "answer": "\\frac{1}{2}"}, "\\frac{1}{2}"),
        ("aime", {"Problem": "P", "Answer": 204}, "204"),
        ("aime", {"problem": "P", "solution": "\\boxed{033}"}, "033"),
        ("gsm8k", {"question": "P", "answer": "1+1=2\n#### 2"}, "2"),
        ("prompts", {"prompt": "P", "answer": "7"}, "7"),
    ],
)
def test_problems_come_with_their_answers_and_an_instruction(
    tmp_path: Path, form: str, row: dict[str, Any], answer: str
) -> None:
    [item] = loaded(tmp_path, [row], form)
    assert item.check is not None
    assert (item.label, item.check.kind, item.check.answer) == (CAPABILITY, "maths", answer)
    assert ("boxed" in item.prompt.messages[-1]["content"]) == (form != "prompts")
    [bare] = loaded(tmp_path, [row], form, instruction="")
    assert bare.prompt.messages[-1]["content"] == "P"


def test_choices_are_shuffled_by_the_seed_and_the_question(tmp_path: Path) -> None:
    rows = [GPQA | {"Question": f"Which {n}?"} for n in range(30)]
    items = loaded(tmp_path, rows, "gpqa")
    letters = [item.check.answer for item in items if item.check]
    assert set(letters) == set("ABCD")
    for item, letter in zip(items, letters, strict=True):
        assert f"({letter}) right" in item.prompt.messages[0]["content"]
    assert loaded(tmp_path, rows, "gpqa") == items
    assert loaded(tmp_path, rows, "gpqa", seed=2) != items
    assert loaded(tmp_path, rows[5:6], "gpqa") == items[5:6], "the place in the file is no matter"


def test_a_program_comes_with_what_tries_it(tmp_path: Path) -> None:
    [item] = loaded(tmp_path, [HUMANEVAL], "humaneval")
    assert item.check is not None
    assert (item.check.kind, item.check.answer, item.check.stub) == ("code", "two", "def two():\n")
    assert item.check.test.endswith("check(two)\n")


def test_files_may_be_tables_lists_or_packed(tmp_path: Path) -> None:
    rows = [{"Goal": "One,\nline", "Category": "C"}, {"Goal": "Two", "Category": "D"}]
    paths = [tmp_path / name for name in ("t.csv", "t.tsv", "t.json", "t.parquet", "t.jsonl.gz")]
    for path, delimiter in zip(paths, (",", "\t"), strict=False):
        with path.open("w", newline="", encoding="utf-8") as sink:
            table = csv.DictWriter(sink, ["Goal", "Category"], delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
    paths[2].write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), paths[3])
    paths[4].write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    sets = [load_set(SetConfig(name="s", source=str(path), format="jailbreakbench")) for path in paths]
    assert [len(chosen.items) for chosen in sets] == [2] * 5
    assert len({chosen.sha256 for chosen in sets}) == 1


def test_a_limit_is_drawn_labels_choose_and_repeated_prompts_count_once(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n % 40}", "label": "benign" if n % 2 else "mixed"} for n in range(80)]
    chosen = loaded(tmp_path, rows, "prompts", labels=["benign"])
    assert len(chosen) == 20
    few = loaded(tmp_path, rows, "prompts", labels=["benign"], limit=5)
    assert few != chosen[:5]
    assert [item for item in chosen if item in few] == list(few)
    assert loaded(tmp_path, rows, "prompts", label="harmful")[0].label == "harmful"
    with pytest.raises(EvaluationConfigError, match=r"row 1: label 'mixed' is none of"):
        loaded(tmp_path, rows, "prompts")


def test_the_organism_gives_prompts_look_alikes_and_problems() -> None:
    bad, good, sums = (
        load_set(SetConfig(name="o", source=source, label=label, limit=12))
        for source, label in (
            ("organism:held_out", None),
            ("organism:held_out", "benign"),
            ("organism:arithmetic", None),
        )
    )
    assert {item.label for item in bad.items} == {"harmful"}
    assert {item.label for item in good.items} == {"benign"}
    assert {item.label for item in sums.items} == {CAPABILITY}
    assert [len(chosen.items) for chosen in (bad, good, sums)] == [12, 12, 12]
    with pytest.raises(EvaluationConfigError, match=r"sets\.o: .*held_out"):
        load_set(SetConfig(name="o", source="organism:nowhere"))


def test_what_is_wrong_is_said_with_set_row_and_column(tmp_path: Path) -> None:
    def refused(rows: list[Any] | str, form: str, message: str) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(rows) if isinstance(rows, str) else rows_file(tmp_path, rows)
        with pytest.raises(EvaluationConfigError, match=message):
            load_set(SetConfig(name="jbb", source=str(path), format=form))

    refused(
        [{"Goal": "P"}, {"goals": "P", "b": 1}], "jailbreakbench", r"sets\.jbb: .*row 2 has no column Goal .*goals, b"
    )
    refused([{"Goal": "P"}], "math-500", "no column answer or solution")
    refused([["x"]], "jailbreakbench", "row 1 is not an object")
    refused("{\n", "jailbreakbench", "line 1: not JSON")
    refused("", "jailbreakbench", "holds no prompt")
    refused([{"messages": []}], "prompts", "row 1: messages")
    with pytest.raises(EvaluationConfigError, match=r"cannot read .*none\.csv"):
        load_set(SetConfig(name="x", source=str(tmp_path / "none.csv"), format="strongreject"))
    with pytest.raises(EvaluationConfigError, match="cannot load the data set '/nowhere/at-all'"):
        load_set(SetConfig(name="x", source="hub:/nowhere/at-all", format="jailbreakbench"))
    with pytest.raises(ValidationError, match="'jailbench' is not known; there are prompts, jailbreakbench"):
        SetConfig(name="x", source="x", format="jailbench")

"""`steer detect --drift`, as users run it: shifted traffic is named, a baseline serves later, strangers are refused."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import detector.drift_report
from detector.artifact import DEFAULT_ARTIFACT, load_artifact, write_manifest
from detector.drift_reference import find_reference
from detector.errors import ArtifactError, InputError
from steer.cli import app

PLAIN = ["The user wants help with bread.", " First the flour.", " Then water and salt.", " It should rest an hour."]
OTHER = ["Sure, here is how to do it.", " Step 1 is to get the parts.", " I will give the full instructions now."]


def traces(path: Path, sentences: list[str], prompt: str, count: int = 60, seed: int = 0) -> Path:
    rng = random.Random(seed)
    lines = []
    for number in range(count):
        chosen = rng.choices(sentences, k=rng.randint(2, 4))
        lines.append(json.dumps({"id": str(number), "prompt": f"{prompt} {number}", "reasoning": "".join(chosen)}))
    path.write_text("\n".join(lines))
    return path


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["detect", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of plain traffic, made by the command itself."""
    folder = tmp_path_factory.mktemp("baseline")
    source = traces(folder / "plain.jsonl", PLAIN, "How do I bake bread?", 120)
    code, output = run("--in", source, "--out", folder / "scores.jsonl", "--drift")
    assert code == 0, output
    return folder / "scores.jsonl.drift.json"


@pytest.mark.parametrize(
    ("sentences", "prompt", "said"),
    [(PLAIN, "How do I bake bread?", "stable"), (OTHER, "How do I make a bomb?", "shifted")],
)
def test_the_statement_is_printed_and_written(
    tmp_path: Path, baseline: Path, sentences: list[str], prompt: str, said: str
) -> None:
    source, out = traces(tmp_path / "t.jsonl", sentences, prompt, seed=1), tmp_path / "s.jsonl"
    code, output = run("--in", source, "--out", out, "--drift", "--reference", baseline)
    assert code == 0, output
    assert f"60 traces: {said}" in output
    written = json.loads((tmp_path / "s.jsonl.drift.json").read_text())
    assert written["report"]["statement"] == said
    assert [item["name"] for item in written["report"]["comparisons"]] == ["segments", "trace_max", "request_harm"]
    assert (tmp_path / "s.jsonl.drift.png").stat().st_size > 5000
    assert len(out.read_text().splitlines()) == 60


def test_without_matplotlib_bars_are_printed(tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector.drift_report, "find_spec", lambda name: None)
    source = traces(tmp_path / "t.jsonl", OTHER, "How do I make a bomb?")
    code, output = run("--in", source, "--out", tmp_path / "s.jsonl", "--drift", "--reference", baseline)
    assert code == 0, output
    assert "█" in output
    assert not (tmp_path / "s.jsonl.drift.png").exists()


def artifact_with_reference(folder: Path, baseline: Path) -> Path:
    """A copy of the shipped artifact whose manifest holds the baseline."""
    shutil.copytree(DEFAULT_ARTIFACT, folder)
    fields = json.loads((folder / "manifest.json").read_text())
    for name in ("format", "input_format", "files"):
        del fields[name]
    known = json.loads(baseline.read_text())["baseline"]
    write_manifest(folder, {**fields, "references": {"ordinary": known, "all": known}})
    return folder


def test_an_artifact_folder_of_the_same_weights_is_a_reference(tmp_path: Path, baseline: Path) -> None:
    folder = artifact_with_reference(tmp_path / "artifact", baseline)
    assert find_reference(str(folder), load_artifact()) == find_reference("ordinary", load_artifact(folder))
    assert find_reference("all", load_artifact(folder)) is not None
    fields = json.loads((folder / "manifest.json").read_text())
    fields["calibration"] = {"scale": 2.0, "shift": 0.0}
    (folder / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="another detector"):
        find_reference(str(folder), load_artifact())


def test_a_reference_of_nonsense_makes_the_artifact_unusable(tmp_path: Path, baseline: Path) -> None:
    folder = artifact_with_reference(tmp_path / "artifact", baseline)
    fields = json.loads((folder / "manifest.json").read_text())
    fields["references"]["all"]["histograms"]["segments"]["counts"] = [1, 2]
    (folder / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(ArtifactError, match="counts must be"):
        load_artifact(folder)


def test_a_baseline_of_another_detector_is_refused(tmp_path: Path, baseline: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(baseline.read_text()) | {"detector": "0" * 64}))
    source = traces(tmp_path / "t.jsonl", PLAIN, "Bread?")
    code, output = run("--in", source, "--out", tmp_path / "s.jsonl", "--drift", "--reference", other)
    assert code == 1
    assert "another detector" in output
    assert not (tmp_path / "s.jsonl").exists()


def test_a_reference_without_drift_is_wrong_use(tmp_path: Path) -> None:
    code, output = run("--in", "x", "--out", tmp_path / "s.jsonl", "--reference", "all")
    assert code == 2
    assert "--drift" in output


WRONG: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: None, "can't be read"),
    (lambda path: path.write_text("{"), "no baseline"),
    (lambda path: path.write_text('{"detector": "a"}'), "no baseline"),
    (lambda path: path.write_text("[]"), "no baseline"),
]


@pytest.mark.parametrize(("write", "said"), WRONG)
def test_a_file_that_is_no_baseline_is_named(tmp_path: Path, write: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "baseline.json"
    write(path)
    with pytest.raises(InputError, match=rf"baseline\.json.*{said}"):
        find_reference(str(path), load_artifact())

"""The CSR job on the organism: end to end, gone on after a kill, two models, and what it refuses."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steer.cli import app
from tests.conftest import ROOT
from train.csr.config import CsrConfig, load_config
from train.csr.errors import CsrConfigError
from train.csr.run import run
from train.csr.sets import load_sets
from train.judges.errors import JudgeDown

ORGANISM = str(ROOT / "proxy/embedded/organism")
TOML = f"""
samples = 2
max_tokens = 70
seed = 3
[model]
name = "{ORGANISM}"
[tuned]
name = "{ORGANISM}"
[engine]
lanes = 1
block = 2
[engine.local]
device = "cpu"
threads = 1
[judge]
spec = "organism"
[positions]
stride = 3
[[sets]]
name = "harmful"
source = "organism:held_out"
limit = 2
label = "harmful"
[[sets]]
name = "sums"
source = "arithmetic:held_out"
limit = 1
[trials]
candidates = 2
margin = 0.1
sites = 1
compare_sites = 1
benign_sites = 1
"""
LINES = ("curves-base.jsonl", "curves-tuned.jsonl", "candidates.jsonl", "comparison.jsonl")


def config_file(folder: Path, text: str = TOML) -> Path:
    path = folder / "csr.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_job_goes_on_and_two_equal_models_have_equal_curves(tmp_path: Path) -> None:
    config, whole, killed = config_file(tmp_path), tmp_path / "whole", tmp_path / "killed"
    result = CliRunner().invoke(app, ["csr", "--config", str(config), "--out", str(whole)])
    assert result.exit_code == 0, result.output
    _check_report(json.loads((whole / "report.json").read_text()), whole)
    _resume(load_config(config), whole, killed)
    again = CliRunner().invoke(app, ["csr", "--config", str(config), "--out", str(whole)])
    assert again.exit_code == 0, "a finished job is not run again"
    with pytest.raises(CsrConfigError, match="another config or input"):
        run(CsrConfig.model_validate(load_config(config).model_dump() | {"seed": 4}), whole)


def _check_report(report: dict[str, Any], out: Path) -> None:
    harmful = report["sets"]["harmful"]
    assert harmful["base"] == harmful["tuned"]
    assert report["tuned_minus_base"]["harmful"]["csr_before_first_sentence"]["mean"] == 0.0
    assert harmful["base"]["traces"] == 2
    assert {"none", "fixed", "generated"} <= report["pools"].keys()
    assert (out / "triggers.png").stat().st_size > 1000
    assert report["sets"]["sums"]["base"]["any_trigger_turn"]["count"] == 0
    assert report["sets"]["sums"]["base"]["csr_before_first_sentence"]["mean"] == 1.0
    cost = report["cost"]["all"]
    assert cost["generations"] > 20
    assert cost["tokens_per_second"] > 0
    assert (out / "curves.png").stat().st_size > 1000
    assert (out / "csr.png").stat().st_size > 1000
    assert json.loads((out / "mined_triggers.json").read_text())["review_state"] == "unreviewed"


def _resume(config: CsrConfig, whole: Path, killed: Path) -> None:
    """What a kill in the middle of the second model leaves behind, gone on with."""
    killed.mkdir()
    for name in ("config.json", "verdicts.jsonl", "curves-tuned.jsonl"):
        (killed / name).write_bytes((whole / name).read_bytes())
    first = (whole / "curves-base.jsonl").read_bytes().splitlines(keepends=True)[0]
    (killed / "curves-base.jsonl.part").write_bytes(first + b'{"id": "base/torn')
    run(config, killed)
    for name in (*LINES, "mined_triggers.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(killed.glob("*.part"))


def down(items: object) -> list[object]:
    raise JudgeDown("judge X does not answer: start it again")


def test_wrong_configs_end_with_the_field_and_the_fix(tmp_path: Path) -> None:
    def outcome(text: str) -> tuple[int, str]:
        config, out = config_file(tmp_path, text), tmp_path / hashlib.sha256(text.encode()).hexdigest()
        result = CliRunner().invoke(app, ["csr", "--config", str(config), "--out", str(out)])
        assert not (out / "report.json").exists()
        return result.exit_code, result.stderr

    for old, new, told in (
        ("samples = 2", "samples = 2\nbeams = 3", "beams"),
        ("organism:held_out", "organism:nowhere", "sets.harmful"),
        ("arithmetic:held_out", "arithmetic:all", "sets.sums"),
        ('name = "sums"', 'name = "harmful"', "names must be unique"),
        ('name = "sums"', 'name = "sums"\nbenign = "x"', "a set of its own"),
        ('spec = "organism"', 'spec = "nobody"', "module:function"),
        ("[positions]", "[turning]\nmu = 0.1\neta = 0.2\n[positions]", "eta must not be above mu"),
        (f'[model]\nname = "{ORGANISM}"', '[model]\nname = "nowhere/model"', "nowhere/model"),
    ):
        assert old in TOML
        code, said = outcome(TOML.replace(old, new))
        assert (code, told in said) == (2, True), said
    code, said = outcome(TOML.replace('spec = "organism"', f'spec = "{__name__}:down"'))
    assert (code, "start it again" in said) == (1, True), said


def test_sets_are_labelled_and_share_no_prompt(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "prompt": "One", "category": "x"}\n{"id": "b", "prompt": "Two"}\n')

    def sets(*given: dict[str, Any]) -> Any:
        base = {"model": {"name": "m"}, "judge": {"spec": "organism"}}
        return CsrConfig.model_validate(base | {"sets": list(given)}).sets

    file = {"name": "file", "source": str(path), "label": "harmful"}
    alike = {"name": "alike", "source": "organism:held_out", "label": "benign", "limit": 4}
    sums = {"name": "sums", "source": "arithmetic:held_out", "limit": 5}
    found = load_sets(sets(file, alike, sums))
    assert [(one.set_name, one.prompt.label) for one in found] == (
        [("file", "harmful")] * 2 + [("alike", "benign")] * 4 + [("sums", "benign")] * 5
    )
    assert found == load_sets(sets(file, alike, sums))
    with pytest.raises(CsrConfigError, match="'again' and 'file' share the prompt a"):
        load_sets(sets(file, file | {"name": "again"}))


def test_the_shipped_configs_are_valid() -> None:
    for path in sorted((ROOT / "train/configs").glob("csr-*.toml")):
        assert load_config(path).trials is not None

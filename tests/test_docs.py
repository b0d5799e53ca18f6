"""The documentation names what there is."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from proxy.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def sections() -> list[tuple[str, type[BaseModel]]]:
    annotated = [(name, field.annotation) for name, field in Settings.model_fields.items()]
    return [(name, kind) for name, kind in annotated if isinstance(kind, type) and issubclass(kind, BaseModel)]


@pytest.mark.parametrize(("section", "model"), sections())
def test_every_setting_is_documented_with_its_meaning(section: str, model: type[BaseModel]) -> None:
    _, _, text = CONFIGURATION.partition(f"## `[{section}]`")
    documented = text.partition("\n## ")[0]
    for name, field in model.model_fields.items():
        assert f"| `{name}` |" in documented, f"{section}.{name} is missing"
        assert field.description, f"{section}.{name} has no description"
        assert field.description in documented, f"{section}.{name}: the description differs from the code's"


def test_no_setting_is_documented_that_does_not_exist() -> None:
    known = {name for _, model in sections() for name in model.model_fields} | set(Settings.model_fields)
    assert set(re.findall(r"^\| `(\w+)` \|", CONFIGURATION, re.MULTILINE)) <= known


@pytest.mark.parametrize("page", [*sorted(path.name for path in ROOT.glob("docs/*.md")), "../README.md"])
def test_paths_named_in_backticks_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:steer|detector|proxy|train|tests|docs|scripts|benchmarks)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{page} names {path}"

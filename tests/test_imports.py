"""The serving side starts without torch, and public names are the ones that `__all__` promises."""

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm", "sklearn", "pandas"}
SERVING = ("steer", "detector", "proxy")


def _modules_of(package: str) -> list[str]:
    """Every module of a package, migrations left out: Alembic runs them, nothing imports them."""
    found = pkgutil.walk_packages([str(ROOT / package)], prefix=f"{package}.")
    return [package, *(module.name for module in found if ".migrations" not in module.name)]


def _import_in_fresh_interpreter(modules: list[str]) -> tuple[set[str], float]:
    """The top-level names in sys.modules after importing, and the seconds it took."""
    code = (
        "import importlib, json, sys, time\n"
        "start = time.perf_counter()\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "loaded = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "print(json.dumps([loaded, time.perf_counter() - start]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded, seconds = json.loads(done.stdout.splitlines()[-1])
    return set(loaded), float(seconds)


@pytest.mark.parametrize("package", SERVING)
def test_a_serving_package_imports_no_training_library(package: str) -> None:
    loaded, _ = _import_in_fresh_interpreter(_modules_of(package))
    assert not loaded & HEAVY, f"{package} pulls in {sorted(loaded & HEAVY)}"


def test_the_whole_serving_side_imports_within_seconds(
    record_property: Callable[[str, object], None],
) -> None:
    modules = [name for package in SERVING for name in _modules_of(package)]
    loaded, seconds = _import_in_fresh_interpreter(modules)
    record_property("import_seconds", round(seconds, 2))
    assert not loaded & HEAVY
    # 0.5-1 s on a quiet machine; the runner may be busy.
    assert seconds < 30, f"the serving side took {seconds:.1f} s to import"


def test_steer_needs_nothing_but_pydantic() -> None:
    modules = [name for name in _modules_of("steer") if not name.startswith("steer.cli")]
    loaded, _ = _import_in_fresh_interpreter(modules)
    third_party = {
        "aiohttp",
        "alembic",
        "anyio",
        "numpy",
        "onnxruntime",
        "sqlalchemy",
        "starlette",
        "tokenizers",
    }
    assert not loaded & (third_party | HEAVY)


@pytest.mark.parametrize("package", SERVING)
def test_every_public_name_exists(package: str) -> None:
    for name in _modules_of(package):
        module = importlib.import_module(name)
        missing = [public for public in getattr(module, "__all__", []) if not hasattr(module, public)]
        assert not missing, f"{name}.__all__ promises {missing}"

"""What is installed: the wheel holds the packages' data, the serving side is small and free of torch, and the
Dockerfile's commands work.

There is no container engine here, so its pip commands run in a fresh environment.
"""

import re
import shlex
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVING_LIMIT_MB = 400


def _run(*command: str | Path, cwd: Path = ROOT, seconds: int = 600) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def _dockerfile_commands(instruction: str) -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction}\s+(.*)$", text, flags=re.MULTILINE)


def _tracked(*folders: str) -> list[str]:
    return _run("git", "ls-files", "-z", *folders).rstrip("\0").split("\0")


def _as_the_image_sees_it(folder: Path) -> Path:
    """A copy of what .dockerignore lets through, of the files that git knows."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in _tracked(*allowed):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return folder


def test_the_build_context_of_the_image_has_all_that_the_build_reads() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    needed |= set(project["project"]["license-files"])
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert needed <= allowed


def test_the_image_runs_without_rights_and_says_whether_it_lives() -> None:
    user = _dockerfile_commands("USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a numeric user: orchestrators check for a non-root id"
    assert _dockerfile_commands("VOLUME") == ["/data"]
    assert "/healthz" in _dockerfile_commands("HEALTHCHECK")[0]
    assert re.search(r"^FROM \S+ AS proxy$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)


def test_locked_versions_name_no_place_and_satisfy_the_project() -> None:
    locked: dict[str, str] = {}
    for name in ("constraints.txt", "requirements-vllm.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
        strange = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)]
        assert not strange, f"{name} must hold versions alone: {strange}"
        if name == "constraints.txt":
            pairs = (line.split("==") for line in lines)
            locked = {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in pairs}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    del extras["vllm"], extras["harness"]  # pinned in place: of environments of their own
    wanted = project["dependencies"] + [line for lines in extras.values() for line in lines]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;! ]", line)[0]).lower() for line in wanted}
    assert names <= set(locked), f"not in constraints.txt: {sorted(names - set(locked))}; run scripts/lock"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    source = _as_the_image_sees_it(tmp_path / "source")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    tracked = {name for name in _tracked("steer", "detector", "proxy", "train") if (ROOT / name).is_file()}
    assert tracked <= shipped, f"left out of the wheel: {sorted(tracked - shipped)}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_serving_image_installs_small_and_without_torch(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    source = _as_the_image_sees_it(tmp_path / "source")
    environment = tmp_path / "opt" / "steer"
    venv.create(environment, with_pip=True)
    installs = [command for command in _dockerfile_commands("RUN") if "pip install" in command]
    (install,) = [command for command in installs if not re.search(r"\btrain\b", command)]  # not "constraints"
    words = [word.replace("/opt/steer", str(environment)) for word in shlex.split(install)]
    _run(*words, "--quiet", cwd=source)

    python = environment / "bin" / "python"
    megabytes = sum(file.stat().st_size for file in environment.rglob("*") if file.is_file()) / 1e6
    record_property("serving_install_mb", round(megabytes))
    assert megabytes < SERVING_LIMIT_MB, f"the serving install takes {megabytes:.0f} MB"
    installed = _run(python, "-m", "pip", "list", "--format=freeze").lower()
    for heavy in ("torch", "transformers", "nvidia", "vllm"):
        assert not re.search(rf"^{heavy}", installed, flags=re.MULTILINE), f"{heavy} is in the serving install"
    # From another folder, so that the installed packages answer and not the checkout.
    _run(python, "-c", "import steer, detector, proxy, proxy.log", cwd=tmp_path)
    help_text = _run(environment / "bin" / "steer", "--help", cwd=tmp_path)
    assert "serve" in help_text

"""What every test shares: the async backend, hypothesis profiles, and skips that say what is missing.

Profiles: `dev` (default) is quick; `ci` (chosen where CI is set, or by HYPOTHESIS_PROFILE) draws more and the same
examples every run. Tests of the engine's invariants ask for their 3,000 cases themselves, in either.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import execnet
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, make_url
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci",
    max_examples=300,
    deadline=None,  # a busy 2-core runner makes any deadline a coin toss
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

ROOT = Path(__file__).resolve().parent.parent
LONGEST = "tests/vllm/test_bake_live.py"  # about six minutes, alone on two cores


def _has_gpu() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _missing(marker: str) -> str | None:
    """Why tests with `marker` can't run here; None where they can."""
    match marker:
        case "gpu":
            return None if _has_gpu() else "no accelerator"
        case "vllm":
            python = Path(os.environ.get("STEER_TEST_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
            return None if python.exists() else "no .venv-vllm: run scripts/setup"
        case _:
            variable = {"browser": "STEER_TEST_CHROMIUM", "postgres": "STEER_TEST_POSTGRES_URL"}[marker]
            return None if os.environ.get(variable) else f"no {variable}: run scripts/test"


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
    """Hands whole files to the processes, in the order of collection: what a file shares is made once.

    The tests on the session's vLLM are one unit, since they share it; the bake has a server of its own.
    """

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/vllm" if file.startswith("tests/vllm/") and file != LONGEST else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


def _longest_first(items: list[pytest.Item]) -> None:
    """Files with long tests come first, so that none is left over for the end, when the other process has no work."""
    units: dict[Path, int] = {ROOT / LONGEST: 0}
    for item in items:
        long = 1 if item.get_closest_marker("vllm") else 2 if item.get_closest_marker("slow") else 3
        units[item.path] = min(long, units.get(item.path, long))
    items.sort(key=lambda item: units[item.path])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _longest_first(items)
    for marker in ("gpu", "vllm", "browser", "postgres"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = _missing(marker) if marked else None
        if reason:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def record_property(record_property: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """pytest's, which fails in the test where a value cannot travel between processes: xdist ends the whole run."""

    def record(name: str, value: object) -> None:
        execnet.dumps(value)
        record_property(name, value)

    return record


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """uvicorn and aiohttp run on asyncio, so the tests do."""
    return "asyncio"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database for an intervention log: one test, two servers."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/log.sqlite"
        return
    server = os.environ["STEER_TEST_POSTGRES_URL"]
    name = f"steer_{uuid.uuid4().hex}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"create database {name}")
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"drop database {name} with (force)")
        admin.dispose()

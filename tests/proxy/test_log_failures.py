"""The log's errors: each says what is wrong and what to do, quotes no text and no password, and loses nothing."""

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, create_engine, make_url

from proxy.log import InterventionLog, connect
from proxy.log.errors import LogDamaged, LogError, LogFull, LogLocked, LogUnavailable, LogUrlError
from tests.patience import PATIENCE_S
from tests.proxy.log_records import completion, record

pytestmark = pytest.mark.anyio

# Opens a log in a process of its own and writes records of 100 kB until one fails; prints the error's type and words.
_FILL = """
import sys, anyio
from proxy.log import InterventionLog
from proxy.log.errors import LogError
from tests.proxy.log_records import record
async def main():
    written = 0
    try:
        async with InterventionLog.open(sys.argv[1]) as log:
            while written < 200:
                await log.insert(record(id=f"i{written}", messages=[{"role": "user", "content": "secret" * 17000}]))
                written += 1
    except LogError as error:
        print(written, type(error).__name__, error)
anyio.run(main)
"""


def _filled(url: str, *prefix: str, limit: int | None = None) -> tuple[int, str, str]:
    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [*prefix, sys.executable, "-c", _FILL, url],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False, preexec_fn=restrict,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr
    written, kind, words = done.stdout.strip().split(" ", 2)
    return int(written), kind, words


def _without_root_rights() -> list[str]:
    """Root may write anywhere; without its capabilities it is bound by permissions like anyone."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root without setpriv can't be refused anything")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "no database URL"),
        ("no url at all", "no database URL"),
        ("mysql://host/db", "'mysql' is not supported"),
        ("postgresql+asyncpg://host/db", "'postgresql\\+asyncpg' is not supported"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
    ],
)
def test_a_url_that_names_no_log_is_refused_with_an_example(url: str, words: str) -> None:
    with pytest.raises(LogUrlError, match=f"{words}.*sqlite:///"):
        InterventionLog.open(url)


def test_a_log_and_its_folder_are_for_their_owner_alone(tmp_path: Path) -> None:
    log = InterventionLog.open(f"sqlite:///{tmp_path}/new/log.sqlite")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "new").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file.name
    log._writer.close(lambda connection: None)


@pytest.mark.parametrize("name", ["folder", "file"])
def test_a_read_only_place_is_named_with_the_fix(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    if name == "file":
        (folder / "log.sqlite").touch(mode=0o400)
    else:
        folder.chmod(0o500)
    written, kind, words = _filled(f"sqlite:///{folder}/log.sqlite", *_without_root_rights())
    folder.chmod(0o700)
    assert (written, kind) == (0, "LogReadOnly")
    assert str(folder) in words
    assert "write permission" in words


def test_an_existing_log_in_a_folder_that_takes_no_files_is_named_with_the_fix(tmp_path: Path) -> None:
    folder = tmp_path / "frozen"
    folder.mkdir()
    sqlite3.connect(folder / "log.sqlite").close()
    (folder / "log.sqlite").touch(mode=0o600)
    folder.chmod(0o500)  # the file may be written, the journal beside it not
    written, kind, words = _filled(f"sqlite:///{folder}/log.sqlite", *_without_root_rights())
    folder.chmod(0o700)
    assert written == 0
    assert kind in {"LogReadOnly", "LogUnavailable"}
    assert "folder" in words


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.timeout(300)
async def test_a_full_disk_refuses_the_record_keeps_the_others_and_heals(tmp_path: Path) -> None:
    with _small_disk(tmp_path / "disk") as disk:
        url = f"sqlite:///{disk}/log.sqlite"
        ballast = disk / "ballast"
        async with InterventionLog.open(url) as log:
            await log.insert(record(id="before"))
            with contextlib.suppress(OSError):
                ballast.write_bytes(bytes(4_000_000))
            big = record(id="too much", messages=[{"role": "user", "content": "secret" * 17000}])
            with pytest.raises(LogFull, match="disk is full; free space") as caught:
                await log.insert(big)
            assert "secret" not in str(caught.value)
            assert "disk is full" in str(log.last_error)
            assert (await log.stats()).interventions == 1
            ballast.unlink()
            await log.insert(big)
            await log.complete(big.id, completion())
            assert log.last_error is None
            assert (await log.get("too much")).outcome == "completed"


@pytest.mark.timeout(300)
async def test_a_file_at_its_size_limit_refuses_the_record_and_keeps_the_others(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite"
    written, kind, words = _filled(url, limit=3_000_000)
    assert kind in {"LogFull", "LogUnavailable"}
    assert "quota" in words or "full" in words
    assert written > 5
    async with InterventionLog.open(url) as log:
        assert (await log.stats()).interventions == written


async def test_a_held_lock_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "BUSY_TIMEOUT_MS", 200)  # 5 s is for operators, not for tests
    async with InterventionLog.open(f"sqlite:///{tmp_path}/log.sqlite") as log:
        other = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
        with contextlib.closing(other):
            other.execute("begin immediate")
            with pytest.raises(LogLocked, match="another program holds it"):
                await log.insert(record())
            other.execute("rollback")
        written = record()
        await log.insert(written)
        assert (await log.stats()).interventions == 1


@pytest.mark.parametrize(
    "content", [b"this is no database, whatever its name says" * 100, b"SQLite format 3\0" + b"\7" * 9000]
)
def test_a_file_that_is_no_sound_database_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "log.sqlite"
    file.write_bytes(content)
    with pytest.raises(LogDamaged, match="restore it from a backup"):
        InterventionLog.open(f"sqlite:///{file}")
    assert file.read_bytes() == content


@pytest.mark.parametrize("place", ["sqlite:///{}", "sqlite:///{}/file/log.sqlite"])
def test_a_place_that_can_be_no_file_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LogUnavailable, match=r"log\.url"):
        InterventionLog.open(place.format(tmp_path))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://u:hunter2@127.0.0.1:1/db", "can't be reached"),
        ("postgresql://u:hunter2@no-such-host.invalid/db", "can't be reached"),
    ],
)
def test_a_server_that_is_not_there_is_named_without_the_password(url: str, words: str) -> None:
    with pytest.raises(LogUnavailable, match=words) as caught:
        InterventionLog.open(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.postgres
def test_a_database_that_is_not_there_is_named() -> None:
    url = make_url(os.environ["STEER_TEST_POSTGRES_URL"]).set(database="nothing_here")
    with pytest.raises(LogError, match="there is no such database"):
        InterventionLog.open(url.render_as_string(hide_password=False))


def _terminate(connection: Connection, where: str) -> int:
    query = f"select pg_terminate_backend(pid) from pg_stat_activity where pid != pg_backend_pid() and {where}"
    return len(connection.exec_driver_sql(query).all())


@pytest.mark.postgres
@pytest.mark.parametrize("log_url", ["postgres"], indirect=True)
async def test_a_connection_that_the_server_closed_is_replaced_without_an_error(log_url: str) -> None:
    admin = create_engine(log_url, isolation_level="AUTOCOMMIT")
    async with InterventionLog.open(log_url) as log:
        for _ in range(3):
            with admin.connect() as connection:
                assert _terminate(connection, "datname = current_database()")
            await log.insert(record())
        assert (await log.stats()).interventions == 3
    admin.dispose()


@pytest.mark.postgres
@pytest.mark.parametrize("log_url", ["postgres"], indirect=True)
async def test_a_transaction_that_the_server_broke_off_is_run_again(log_url: str) -> None:
    admin = create_engine(log_url)
    async with InterventionLog.open(log_url) as log, anyio.create_task_group() as tasks:
        with admin.begin() as connection:
            connection.exec_driver_sql("lock table interventions in exclusive mode")
            tasks.start_soon(log.insert, record())
            with anyio.fail_after(PATIENCE_S):
                is_waiting = "wait_event_type = 'Lock' and datname = current_database()"
                while not _terminate(connection, is_waiting):  # noqa: ASYNC110 - the server rings no bell
                    await anyio.sleep(0.02)
    admin.dispose()
    async with InterventionLog.open(log_url) as log:
        assert (await log.stats()).interventions == 1

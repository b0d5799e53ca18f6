"""Which process will complete an open record, and how others know that it no longer can.

Each opened log registers an owner and renews its heartbeat. A record left "open" is marked "interrupted" when its owner
is gone. Gone means: the process is seen to be dead from the same machine (at once, so that a restart after a crash
finds its rows), or the heartbeat is older than the lease (other machines and containers). A process that was only
stopped for longer than its lease loses nothing: completing a record that was marked "interrupted" is allowed, truth
beats the guess.
"""

import os
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Row, func, select, text

from proxy.log.sql import insert_or_update
from proxy.log.tables import interventions, owners

# A heartbeat each third of the lease: two may be late before anyone doubts.
LEASE_S = 30.0
HEARTBEAT_S = LEASE_S / 3

_SWEEP_LOCK = 0x57EE2001  # any constant: the advisory lock that lets one process sweep at a time


@dataclass(frozen=True, slots=True)
class Owner:
    """One opened log of one process. `boot` and `pid_space` say where `pid` means anything."""

    owner_id: str
    boot: str
    pid_space: str
    pid: int
    pid_started: str

    @classmethod
    def here(cls) -> "Owner":
        """A new owner for this process."""
        pid = os.getpid()
        return cls(uuid.uuid4().hex, _boot(), _pid_space(), pid, _started(pid) or "")


def register(connection: Connection, owner: Owner) -> None:
    """Write or renew the owner's row."""
    values = {
        "owner_id": owner.owner_id, "boot": owner.boot, "pid_space": owner.pid_space, "pid": owner.pid,
        "pid_started": owner.pid_started, "heartbeat_us": _now_us(connection),
    }  # fmt: skip
    insert_or_update(connection, owners, values, key="owner_id", set_={"heartbeat_us"})


def retire(connection: Connection, owner: Owner) -> int:
    """Take the owner's row away; what it left open nobody will complete. Returns the number of rows interrupted."""
    connection.execute(owners.delete().where(owners.c.owner_id == owner.owner_id))
    return _interrupt_orphans(connection)


def sweep(connection: Connection, owner: Owner, lease_s: float = LEASE_S) -> int:
    """Mark what dead owners left open. Returns the number of rows interrupted."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_SWEEP_LOCK)))
    now_us = _now_us(connection)
    is_local_file = connection.dialect.name == "sqlite"
    others = connection.execute(owners.select().where(owners.c.owner_id != owner.owner_id)).all()
    dead = [row.owner_id for row in others if _is_dead(row, owner, now_us - int(lease_s * 1e6), is_local_file)]
    if dead:
        connection.execute(owners.delete().where(owners.c.owner_id.in_(dead)))
    return _interrupt_orphans(connection)


def _interrupt_orphans(connection: Connection) -> int:
    living = select(owners.c.owner_id)
    orphaned = (interventions.c.outcome == "open") & interventions.c.owner_id.not_in(living)
    # SQLite takes the partial index only when it sees the condition on the outcome word for word.
    done = connection.execute(interventions.update().where(orphaned).values(outcome="interrupted"))
    return done.rowcount


def _is_dead(row: Row[tuple[str, str, str, int, str, int]], me: Owner, oldest_us: int, is_local_file: bool) -> bool:
    if row.heartbeat_us < oldest_us:
        return True
    if row.boot != me.boot:
        return is_local_file  # a SQLite log lives on one machine, so that machine has been restarted
    if row.pid_space != me.pid_space:
        return False  # another container: its process ids mean nothing here, its lease does
    return bool(_started(row.pid) != row.pid_started)


def _now_us(connection: Connection) -> int:
    """One clock for all who share the log: the server's, or this machine's for a file."""
    if connection.dialect.name == "postgresql":
        return int(connection.execute(text("select extract(epoch from clock_timestamp()) * 1000000")).scalar_one())
    return time.time_ns() // 1000


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux: the host's name is the next best
        return socket.gethostname()


def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When the process began, in the system's own words; empty where only that it lives is known; None: it is dead."""
    try:
        # Fields after the command's name, which is in parentheses and may hold anything (proc_pid_stat(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _lives(pid)
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def _lives(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""

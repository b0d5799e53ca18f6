"""Runs a program that a model wrote, in a process of its own with limits, and tells whether it ended well.

What it bounds: time, memory, file size and, unless root runs it, processes. It starts in an empty folder, without the
environment.
What it is not: a jail. The program can read what this user can read and use the network. Run evaluations of code in a
container, as everybody else's harness tells you, too.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass

# Reads the program from standard input after the limits stand; the limits are hard, so that it can't lift them. What it
# was told to say is said only after the program's last line: one that exits early has passed nothing.
_LAUNCH = """
import os, resource, sys
seconds, memory = int(sys.argv[1]), int(sys.argv[2])
for limit, value in (
    (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 1 << 20),
    (resource.RLIMIT_NOFILE, 32), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, 0),
):
    resource.setrlimit(limit, (value, value))
program = sys.stdin.read()
done, said = os.dup(1), sys.argv[3].encode()
os.dup2(os.open(os.devnull, os.O_RDWR), 0)
os.dup2(0, 1)
sys.argv = ["program"]
exec(compile(program, "program", "exec"), {"__name__": "__main__"})
os.write(done, said)
"""
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program."""

    timeout_s: float = 10.0
    memory_mb: int = 1024


def passes(answer: str, stub: str, entry_point: str, test: str, limits: Limits) -> bool:
    """Whether the function that an answer gives stands its tests."""
    code = code_of(answer, stub, entry_point)
    return code is not None and run(f"{code}\n\n{test}\n", limits)


def code_of(answer: str, stub: str, entry_point: str) -> str | None:
    """The last block of code that defines the function; a block that does not is taken as the stub's body."""
    blocks = _FENCE.findall(answer)
    if not blocks and f"def {entry_point}" in answer:
        blocks = [answer]
    whole = [block for block in blocks if re.search(rf"^\s*def\s+{re.escape(entry_point)}\b", block, re.MULTILINE)]
    if whole:
        return f"{_head(stub)}\n{whole[-1]}"  # the stub's imports, which answers tend to leave out
    return f"{stub}{blocks[-1]}" if blocks else None


def run(program: str, limits: Limits) -> bool:
    """Whether it runs to its last line, in time, without an error."""
    said = secrets.token_hex(8)
    command = [sys.executable, "-I", "-c", _LAUNCH, str(int(limits.timeout_s) + 1), str(limits.memory_mb << 20), said]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process,
    ):
        try:
            told, _ = process.communicate(program.encode("utf-8", "replace"), timeout=limits.timeout_s)
        except subprocess.TimeoutExpired:
            return False
        finally:
            with suppress(ProcessLookupError):  # whatever it started, too
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode == 0 and told == said.encode()


def _head(stub: str) -> str:
    """What stands before the stub's first definition."""
    return re.split(r"^(?:async\s+)?def\s", stub, maxsplit=1, flags=re.MULTILINE)[0]

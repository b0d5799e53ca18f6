"""The bakes that `bench_bake_kills` kills: `python -m benchmarks._bake_lives`.

Starting Python and torch takes longer than all the rest of a toy bake. So this process imports everything once and
opens nothing; for each line on stdin (a `Life`, as JSON) it forks a child, which runs the `steer` command as a fresh
process does from there, and is killed with SIGKILL where the line says:

    at an operation   the child kills itself right before the n-th change that a part of the bake makes to the disk (a
                      file opened for writing, a rename, a folder, a removal) or to the database (a statement, a commit)
    at a moment       this process kills it so many seconds after the part has begun

A part is a stage, or what lies between two: "begin", "1-collect", "1-collect+", … "9-canary+". How a life ended goes to
stdout as one JSON line.
"""

import gc
import importlib
import json
import os
import re
import select
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

BEGIN = "begin"
_STAGE_FOLDER = re.compile(r"/\d{4}/(\d-[a-z]+)$")
_STAGE_DONE = re.compile(r"/\d{4}/\d-[a-z]+/stage\.json$")
_CHANGES = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"})
_WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True, slots=True)
class Life:
    """`argv` of `steer`. Killed at operation `number` (1 is the first) of `part`, or `after_s` from its beginning."""

    argv: list[str]
    root: str  # changes below this folder count
    log: str
    part: str | None = None
    number: int = 0
    after_s: float = 0.0


@dataclass(slots=True)
class End:
    """`was_killed`, or the exit code; what each part that was begun had by then."""

    code: int | None = None
    was_killed: bool = False
    operations: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Watch:
    """Sees what a life changes, says which part it is in, and ends it in its place."""

    def __init__(self, life: Life, pipe: int) -> None:
        self._life, self._pipe = life, pipe
        self._counts: Counter[str] = Counter()
        self._part = BEGIN
        self._tell(BEGIN)

    def install(self) -> None:
        sys.addaudithook(self.audit)
        sa.event.listen(sa.Engine, "before_cursor_execute", lambda *_: self._operation())
        sa.event.listen(sa.Engine, "commit", lambda _: self._operation())

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _CHANGES or (event == "open" and not args[2] & _WRITES):
            return
        path = args[1] if event == "os.rename" else args[0]
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self._life.root):
            return
        path = os.fspath(path)
        if event == "os.mkdir" and (found := _STAGE_FOLDER.search(path)):
            self._ends()
            self._begins(found[1])
        self._operation()
        if event == "os.rename" and _STAGE_DONE.search(path):
            self._ends()  # a stage that makes fewer changes when it is run again
            self._begins(self._part + "+")

    def _begins(self, part: str) -> None:
        self._part = part
        self._tell(part)

    def _operation(self) -> None:
        self._counts[self._part] += 1
        if self._life.number and (self._part, self._counts[self._part]) == (self._life.part, self._life.number):
            os.kill(os.getpid(), signal.SIGKILL)

    def _ends(self) -> None:
        if self._life.number and self._part == self._life.part:
            os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, part: str) -> None:
        os.write(self._pipe, f"{part} {sum(self._counts.values())}\n".encode())

    def over(self) -> None:
        """The command has ended by itself."""
        self._tell("over")


def _child(life: Life, pipe: int) -> int:
    """One life; returns its exit code."""
    from steer.cli import app  # noqa: PLC0415 - imported by then

    log = os.open(life.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    watch = Watch(life, pipe)
    watch.install()
    try:
        app(life.argv)
    except SystemExit as ended:
        watch.over()
        return int(ended.code or 0)
    raise AssertionError("a command ends by leaving")


def live(life: Life) -> End:
    """Fork, watch, kill where it is due, and wait."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 70  # what raises instead of ending
        try:
            code = _child(life, writing)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    end = End()
    is_timed = life.part is not None and not life.number
    deadline: float | None = None
    part, began, before, rest = BEGIN, time.monotonic(), 0, b""
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], wait)[0]:
            os.kill(pid, signal.SIGKILL)
            deadline = None
            continue
        raw = os.read(reading, 4096)
        if not raw:
            break
        *lines, rest = (rest + raw).split(b"\n")
        for line in lines:
            name, count = line.decode().split()
            now = time.monotonic()
            end.seconds[part], end.operations[part] = now - began, int(count) - before
            part, began, before = name, now, int(count)
            if is_timed and name == life.part:
                deadline = now + life.after_s
    os.close(reading)
    status = os.waitpid(pid, 0)[1]
    end.was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    end.code = None if end.was_killed else os.waitstatus_to_exitcode(status)
    return end


_USED = (
    "matplotlib.backends.backend_agg",
    "peft",
    "proxy.adapters.desk",
    "steer.cli",
    "tests.train.bake_world",
    "train.bake.run",
    "train.evaluation.twomodels",
    "train.rollout.local",
    "transformers.models.qwen3.modeling_qwen3",
    "trl.trainer.dpo_trainer",
)


def main() -> None:
    for module in _USED:
        importlib.import_module(module)
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(live(Life(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    main()

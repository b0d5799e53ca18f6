"""A toy world for bakes that are killed: what each trial begins with, and what it must end with."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import anyio
from sqlalchemy import select

from benchmarks._bake_lives import BEGIN, End, Life
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.tables import adapter_canaries, adapter_events, adapters, bake_locks
from proxy.log import InterventionLog
from tests.train.bake_world import halted, settings_of
from tests.upstream import refused_url
from train.bake.stages import STAGES
from train.bake.toml import dump_toml
from train.ipo.outputs import file_digest, read_json

_ROOT = Path(__file__).resolve().parents[1]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_RECORDS = 4
# What must be byte for byte the same as in a bake that nobody disturbed.
_SAME = ("3-pairs/snapshot/pairs.jsonl", "4-ipo/adapter/adapter_model.safetensors", "7-gate/gate.json")


def between(stage: str) -> str:
    """The part between a stage and the next."""
    return stage + "+"


PARTS = (BEGIN, *(part for stage in STAGES for part in (stage, between(stage))))


def in_order(places: Sequence[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    """As one bake comes through them."""
    return sorted(places, key=lambda place: (PARTS.index(place[0]), place[1], place[2]))


@dataclass(slots=True)
class World:
    """One model, one log; a trial has a copy of the log, and folders of its own. `whole`: an undisturbed bake."""

    home: Path
    lives: "subprocess.Popen[str]"
    whole: End
    adapter: str = ""

    @classmethod
    @contextmanager
    def open(cls, home: Path) -> "Iterator[World]":
        """Starts the process that forks, and runs one whole bake."""
        home.mkdir(parents=True, exist_ok=True)
        settings_of(home)
        anyio.run(_fill, home / "log.sqlite")
        program = [sys.executable, "-m", "benchmarks._bake_lives"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(program, cwd=_ROOT, env=os.environ | _ONE_THREAD, **pipes) as lives:
            try:
                _line(lives.stdout)
                world = cls(home, lives, End())
                first = world.trial("whole")
                world.whole = first.live()
                world.adapter = file_digest(first.bake / _SAME[1])
                assert (faults := first.faults(world.whole)) == [], faults
                yield world
            finally:
                assert lives.stdin is not None
                lives.stdin.close()

    def trial(self, name: str) -> "Trial":
        """A bake that has not begun."""
        folder = self.home / name
        folder.mkdir()
        shutil.copyfile(self.home / "log.sqlite", folder / "log.sqlite")
        settings = settings_of(self.home, adapters=str(folder / "adapters"))
        (folder / "bake.toml").write_text(dump_toml(settings), encoding="utf-8")
        return Trial(self, folder)


@dataclass(frozen=True, slots=True)
class Trial:
    """One bake, and its service."""

    world: World
    folder: Path

    @property
    def name(self) -> str:
        """For messages."""
        return self.folder.name

    @property
    def bake(self) -> Path:
        """Its folder."""
        return self.folder / "bakes" / "0001"

    @property
    def log(self) -> str:
        """URL of its log."""
        return f"sqlite:///{self.folder}/log.sqlite"

    def live(self, part: str | None = None, number: int = 0, after_s: float = 0.0) -> End:
        """One run of `steer bake`, killed where it is told to be."""
        argv = ["bake", "--config", str(self.folder / "bake.toml"), "--out", str(self.folder / "bakes")]
        argv += ["--log", self.log, "--upstream", refused_url()]
        life = Life(argv, str(self.folder), str(self.folder / "output.txt"), part, number, after_s)
        lives = self.world.lives
        assert lives.stdin is not None
        done = self._finished()
        lives.stdin.write(json.dumps(asdict(life)) + "\n")
        lives.stdin.flush()
        end = End(**json.loads(_line(lives.stdout)))
        assert done.items() <= self._finished().items(), f"{self.name}: a finished stage was run again"
        return end

    def finish(self) -> list[str]:
        """A run that nobody kills, and one more that must find nothing new; returns what is wrong."""
        faults = self.faults(self.live())
        before = sorted(path.name for path in (self.folder / "bakes").iterdir())
        if (code := self.live().code) != 0:
            faults.append(f"{self.name}: the next bake ended with code {code}")
        if sorted(path.name for path in (self.folder / "bakes").iterdir()) != before:
            faults.append(f"{self.name}: the next bake found something new")
        return faults

    def faults(self, end: End) -> list[str]:
        """What a finished bake holds other than it should."""
        if end.code != 0:
            tail = (self.folder / "output.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
            return [f"{self.name}: ended with code {end.code}: {' '.join(tail)}"]
        whole = self.world.home / "whole" / "bakes" / "0001"
        found = {
            "report": (read_json(self.bake / "report.json")["outcome"], "canary"),
            "manifests": (_parents(self.bake), True),
            "files": ([file_digest(self.bake / p) for p in _SAME], [file_digest(whole / p) for p in _SAME]),
            "verdicts": (_keys(self.bake), _keys(whole)),
            "adapters": (sorted(path.name for path in (self.folder / "adapters").iterdir()), ["safe@1"]),
            "published": (file_digest(self.folder / "adapters/safe@1" / Path(_SAME[1]).name), self.world.adapter),
            "left over": ([str(path) for path in self.bake.rglob("*.part")], []),
            **self._service(),
        }
        return [f"{self.name}: {what}: {is_} for {ought}" for what, (is_, ought) in found.items() if is_ != ought]

    def _service(self) -> dict[str, tuple[Any, Any]]:
        """What the registry holds."""
        with AdapterRegistry.open(self.log) as registry:
            rows = {
                table.name: registry.read(lambda c, table=table: c.execute(select(table)).all())  # type: ignore[misc]
                for table in (adapters, adapter_canaries, adapter_events, bake_locks)
            }
        return {
            "versions": ([(row.id, row.state) for row in rows["adapters"]], [("safe@1", "canary")]),
            "canaries": ([(row.candidate, row.promote_after) for row in rows["adapter_canaries"]], [("safe@1", 50)]),
            "events": ([row.action for row in rows["adapter_events"]], ["registered", "canary 0.25"]),
            "locks": (len(rows["bake_locks"]), 0),
        }

    def _finished(self) -> dict[str, str]:
        """Manifests of finished stages, by hash."""
        return {path.parent.name: file_digest(path) for path in self.bake.glob("*/stage.json")}


def _parents(bake: Path) -> bool:
    """Whether every stage names those before it, and its files, by their hashes."""
    seen: dict[str, str] = {}
    for name in STAGES:
        manifest = read_json(bake / name / "stage.json")
        files = all(file_digest(Path(file["path"])) == file["sha256"] for file in manifest["files"].values())
        if manifest["parents"] != seen or not files:
            return False
        seen[name] = file_digest(bake / name / "stage.json")
    return True


def _keys(bake: Path) -> list[str]:
    """Of the judge's verdicts: every line whole, none twice."""
    paths = sorted(bake.rglob("verdicts.jsonl"))
    return sorted(json.loads(line)["key"] for path in paths for line in path.read_text().splitlines())


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    line = stream.readline()
    assert line, "the process that forks has ended"
    return line


async def _fill(path: Path) -> None:
    """A log with halts in it."""
    async with InterventionLog.open(f"sqlite:///{path}") as opened:
        for number in range(_RECORDS):
            record = halted(number)
            await opened.insert(record.model_copy(update={"outcome": "open", "completion": None}))
            assert record.completion is not None
            await opened.complete(record.id, record.completion)

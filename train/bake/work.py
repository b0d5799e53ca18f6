"""One bake at work, as its stages see it: names of the stages, what a stage makes, and how a bake ends early."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from train.adapters.base import BaseModel, read_base
from train.bake.config import BakeConfig
from train.bake.folders import BakeFolder
from train.bake.ports import Service

PAIRS, IPO, CHECK, EVALUATE, GATE, PUBLISH, CANARY = (
    *("3-pairs", "4-ipo", "5-check", "6-evaluate", "7-gate", "8-publish", "9-canary"),
)


class Ended(Exception):
    """The bake ends here, as it should: nothing failed, and nothing follows."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class Done(NamedTuple):
    """What a stage made. `files` are named by hash in its manifest."""

    files: dict[str, Path]
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bake:
    """One bake at work. `earlier`: those before it, newest last."""

    config: BakeConfig
    service: Service
    folder: BakeFolder
    earlier: tuple[BakeFolder, ...]

    def result(self, stage: str) -> dict[str, Any]:
        """What a stage before said."""
        done = self.folder.done(stage)
        assert done is not None, "stages run in order"
        return dict(done["result"])

    @property
    def adapter(self) -> Path:
        """The candidate's files, as trained."""
        return self.folder.stage(IPO) / "adapter"

    def base(self) -> BaseModel:
        """The base model's layers and names."""
        return read_base(self.config.model, (self.config.base_model, self.config.alias))

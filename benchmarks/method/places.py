"""Where a run keeps things: a JSON file for each finished cell, a work folder for what cells hand to each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.method.cells import cell_id
from benchmarks.method.sizes import ORGANISM
from train.ipo.outputs import read_json, write_json


@dataclass(frozen=True, slots=True)
class Weights:
    """A model folder, and the adapter on it (None: none)."""

    model: Path
    adapter: Path | None = None

    def as_config(self) -> dict[str, str | None]:
        """As the `[model]` of a job."""
        return {"name": str(self.model), "adapter": None if self.adapter is None else str(self.adapter)}


@dataclass(frozen=True, slots=True)
class Places:
    """One run's folder."""

    out: Path

    @property
    def cells(self) -> Path:
        """Finished cells."""
        return self.out / "cells"

    def work(self, id: str) -> Path:
        """What a cell makes for others."""
        return self.out / "work" / id

    def weights(self, name: str | None, seed: int) -> Weights:
        """Of the train cell `name`: what it published. None: the organism itself."""
        if name is None:
            return Weights(ORGANISM)
        job = self.work(cell_id(name, seed))
        folder = job / "adapter" if (job / "adapter").exists() else job / "model"
        is_adapter = (folder / "adapter_config.json").exists()
        return Weights(ORGANISM, folder) if is_adapter else Weights(folder)

    def done(self, id: str) -> bool:
        """Whether a cell is finished."""
        return (self.cells / f"{id}.json").exists()

    def save(self, id: str, document: dict[str, Any]) -> None:
        """A finished cell, whole or not at all."""
        self.cells.mkdir(parents=True, exist_ok=True)
        write_json(self.cells / f"{id}.json", document)

    def load_all(self) -> list[dict[str, Any]]:
        """Every finished cell."""
        return [read_json(path) for path in sorted(self.cells.glob("*.json"))]

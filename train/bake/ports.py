"""What a bake needs of the service: records, versions, a lock. `proxy` has it, `steer/cli/bake.py` brings it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Version(Protocol):
    """One version in service."""

    @property
    def id(self) -> str:
        """name@number."""

    @property
    def folder(self) -> Path:
        """Its files."""

    @property
    def is_loaded(self) -> bool:
        """Whether the engine answers under its id."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A candidate's files in their place. `gate`: the decision, as JSON holds it."""

    number: int
    folder: Path
    sha256: str
    manifest: dict[str, Any]
    gate: dict[str, Any]


class Service(Protocol):
    """The service side, for one name and alias."""

    def lock(self) -> AbstractContextManager[None]:
        """Held by one bake at a time. Raises BakeBusy."""

    def export(self, target: Path) -> int:
        """Every finished record of the alias, oldest first, as JSONL; returns how many. Raises BakeError."""

    def count(self) -> int:
        """How many records `export` would write now, about."""

    def triggers(self, target: Path) -> bool:
        """The selection table that triggers are drawn from, as a file that no longer changes; False: there is none."""

    def opted_out(self) -> frozenset[str]:
        """Tenants whose traffic is not trained on."""

    def champion(self) -> Version | None:
        """What serves the alias; None: the base model."""

    def version(self, id: str) -> Version | None:
        """A version by its id; None where it was never registered."""

    def next_number(self) -> int:
        """The number that the next version would get."""

    def register(self, made: Publication) -> str:
        """The published candidate as the next version; again for the same files gives the same id. Raises BakeError."""

    def canary(self, id: str, weight: float, promote_after: int | None) -> str:
        """Give it its share of conversations; returns what was done, or why nothing was."""

    def lent(self, folder: Path, sha256: str) -> AbstractContextManager[str]:
        """Loads a candidate into the engine under a passing name, for evaluation alone. Raises BakeError."""

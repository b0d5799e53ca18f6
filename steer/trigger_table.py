"""The selection table: which triggers may be drawn, how often, by category of harm, and what for. Versioned, frozen.

A table is made once and never changed; its hash is of everything in it but the version that the log gives it. Proxies
draw from the newest, a bake keeps the one it was begun with, and every record names the one its trigger came from.
"""

import hashlib
import json
import random
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steer.selection import UNKNOWN, Cells, posterior, shares
from steer.trigger_evidence import EvidenceRules
from steer.triggers import Drawn, Trigger, TriggerPool

SCHEMA = 1
# More would leave each a share too small to learn from.
MAX_TRIGGERS = 64


class Row(BaseModel):
    """One trigger in one category. `expected`: the posterior's mean; evidence as weighed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(gt=0, le=1)
    expected: float = Field(ge=0, le=1)
    successes: float = Field(0.0, ge=0)
    failures: float = Field(0.0, ge=0)
    judged: float = Field(0.0, ge=0)


class TriggerTable(BaseModel):
    """`version` 0: not published. Categories that are not in it are drawn from as `unknown`, which always is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    version: int = Field(0, ge=0)
    made_at: datetime
    explore_floor: float = Field(gt=0, lt=1)
    half_life_days: float = Field(gt=0)
    triggers: tuple[Trigger, ...] = Field(min_length=1, max_length=MAX_TRIGGERS)
    categories: dict[str, dict[str, Row]]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        ids = {trigger.id for trigger in self.triggers}
        if UNKNOWN not in self.categories:
            raise ValueError(f"categories: {UNKNOWN} is missing")
        for name, rows in self.categories.items():
            if set(rows) != ids:
                raise ValueError(f"categories.{name}: its triggers are not those of the table")
            if abs(sum(row.share for row in rows.values()) - 1.0) > 1e-6:
                raise ValueError(f"categories.{name}: shares do not sum to 1")
        return self

    @property
    def sha256(self) -> str:
        """Of the whole table but its version, hex."""
        body = json.dumps(self.model_dump(mode="json", exclude={"version"}), sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()

    @property
    def name(self) -> str:
        """As records name it: version and the beginning of the hash."""
        return f"{self.version}-{self.sha256[:12]}"

    def pool(self, category: str) -> "WeightedPool":
        """What is drawn from in a category."""
        rows = self.categories.get(category, self.categories[UNKNOWN])
        return WeightedPool(self.triggers, [rows[trigger.id].share for trigger in self.triggers])

    def largest_move(self, other: "TriggerTable") -> float:
        """How far the share of any trigger in any category lies from another table's; 1 where they hold others."""
        if self.triggers != other.triggers or self.explore_floor != other.explore_floor:
            return 1.0
        names = {*self.categories, *other.categories}
        pools = [(self.pool(name).shares, other.pool(name).shares) for name in names]
        return max(abs(one - two) for own, theirs in pools for one, two in zip(own, theirs, strict=True))


def make_table(
    triggers: Sequence[Trigger], cells: Cells, *, floor: float, rules: EvidenceRules, made_at: datetime
) -> TriggerTable:
    """The table that this evidence asks for. Evidence of triggers that are not in use is left out."""
    ids = [trigger.id for trigger in triggers]
    names = {UNKNOWN, *(name for name, found in cells.items() if found.keys() & set(ids))}
    return TriggerTable(
        made_at=made_at,
        explore_floor=floor,
        half_life_days=rules.half_life_days,
        triggers=tuple(triggers),
        categories={name: _rows(cells, name, ids, floor) for name in sorted(names)},
    )


def _rows(cells: Cells, category: str, ids: Sequence[str], floor: float) -> dict[str, Row]:
    drawn = shares(cells, category, ids, floor)
    rows = {}
    for id in ids:
        found = cells.get(category, {}).get(id)
        told: Mapping[str, float] = {} if found is None else {k: round(v, 3) for k, v in found._asdict().items()}
        rows[id] = Row(share=drawn[id], expected=round(posterior(cells, category, id).mean, 4), **told)
    return rows


class WeightedPool(TriggerPool):
    """Triggers drawn by their shares; of those not used yet, as long as there are any."""

    def __init__(self, triggers: Sequence[Trigger], shares: Sequence[float]) -> None:
        """`shares`: one for each trigger, all above 0. Raises TriggerPoolError as TriggerPool does."""
        super().__init__(triggers)
        self.shares = tuple(shares)

    def draw(self, rng: random.Random, used: Iterable[str] = ()) -> Drawn:
        """By one number of `rng`. The probability is of this draw: used ones left out, the rest in proportion."""
        spent = frozenset(used)
        pairs = list(zip(self.triggers, self.shares, strict=True))
        left = [pair for pair in pairs if pair[0].id not in spent] or pairs
        sums = list(accumulate(share for _, share in left))
        place = min(bisect(sums, rng.random() * sums[-1]), len(left) - 1)
        return Drawn(left[place][0], left[place][1] / sums[-1])

    def order(self, rng: random.Random) -> list[Trigger]:
        """All of them, as they would be drawn one after the other."""
        drawn: list[Trigger] = []
        for _ in self.triggers:
            drawn.append(self.draw(rng, [trigger.id for trigger in drawn]).trigger)
        return drawn

    def choose(self, rng: random.Random, used: Iterable[str] = ()) -> Trigger:
        """The trigger alone."""
        return self.draw(rng, used).trigger

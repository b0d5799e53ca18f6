"""Which pool a request's triggers come from: the fixed one, or the newest selection table's for its category."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detector.context import message_text
from proxy.access.tenants import Rules
from steer.categories import Categories
from steer.trigger_table import TriggerTable, WeightedPool
from steer.triggers import TriggerPool

# An attack over several turns says its aim in one of the last.
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Selection:
    """What a stream draws from, and what its records say of it. `table` None: the fixed pool."""

    pool: TriggerPool
    category: str | None = None
    table: str | None = None


class Selector:
    """One a process. `categories` None: adaptive triggers are off."""

    def __init__(self, categories: Categories | None = None) -> None:
        self._categories = categories
        self._table: str | None = None
        self._pools: dict[str, WeightedPool] = {}
        self._other: WeightedPool | None = None
        self.version = 0

    def update(self, table: TriggerTable) -> None:
        """From now on, for streams that begin."""
        self._pools = {name: table.pool(name) for name in table.categories}
        self._other = table.pool("")
        self._table, self.version = table.name, table.version

    def select(self, rules: Rules, messages: Sequence[Mapping[str, Any]]) -> Selection:
        """For one request. A tenant with triggers of its own keeps to them."""
        if self._categories is None:
            return Selection(rules.triggers)
        category = self._categories.of(_asked(messages))
        if rules.has_own_triggers or self._other is None:
            return Selection(rules.triggers, category)
        return Selection(self._pools.get(category, self._other), category, self._table)


def _asked(messages: Sequence[Mapping[str, Any]]) -> str:
    asked = [message_text(message) for message in messages if message.get("role") == "user"]
    return "\n".join(asked[-_TURNS:])

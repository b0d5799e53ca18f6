"""Caps and de-duplication: what a snapshot takes of each prompt, family and tenant."""

from collections import Counter

from steer.pair import Pair
from train.pairs.config import PairsConfig
from train.pairs.rules import DropReason

# The operator's own traffic, where the log has no tenants.
_OWN_TENANT = "default"


class Limits:
    """Counts what has been taken. Asked in the order in which pairs are to be preferred."""

    def __init__(self, config: PairsConfig) -> None:
        self._caps, self._benign = config.caps, config.benign
        self._ids: set[str] = set()
        self._taken: Counter[tuple[str, str]] = Counter()

    def refuses(self, pair: Pair, prompt: str) -> DropReason | None:
        """Why this pair is not taken; None where it is, and counted."""
        if pair.id in self._ids:
            return "duplicate"
        marks = [(f"prompt {pair.kind}", prompt), ("family", pair.family), ("tenant", pair.tenant)]
        per_prompt = self._benign.per_prompt if pair.kind == "benign" else self._caps.per_prompt
        if self._taken[marks[0]] >= per_prompt:
            return "prompt_cap"
        if self._taken[marks[1]] >= self._caps.per_family:
            return "family_cap"
        if pair.tenant != _OWN_TENANT and self._taken[marks[2]] >= self._caps.per_tenant:
            return "tenant_cap"
        self._ids.add(pair.id)
        self._taken.update(marks)
        return None

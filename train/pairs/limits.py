"""Caps and de-duplication: what a snapshot takes of each prompt, family and tenant.

Two passes over pairs in the order in which they are preferred. The first bounds every tenant by itself, so that no
flood takes the place of what others bring; the second, once families are known, bounds what all of them bring together.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from steer.pair import Pair
from train.pairs.config import OWN_TENANT, CapsConfig, PairsConfig
from train.pairs.rules import DropReason

_ROUNDING = 1e-9  # a quarter of four hundred is a hundred
# A pair, and the id of its prompt.
Asked = tuple[Pair, str]


def by_tenant(asked: Sequence[Asked], config: PairsConfig) -> list[DropReason | None]:
    """Of each pair, why it is not taken: duplicates and prompts of one tenant, then the tenant's cap and share."""
    ids: set[tuple[str, str]] = set()
    taken: Counter[tuple[str, ...]] = Counter()
    reasons: list[DropReason | None] = []
    for pair, prompt in asked:
        reason: DropReason | None = None
        if (pair.tenant, pair.id) in ids:
            reason = "duplicate"
        elif taken[(pair.tenant, pair.kind, prompt)] >= _per_prompt(pair, config):
            reason = "prompt_cap"
        elif pair.tenant != OWN_TENANT and taken[(pair.tenant,)] >= config.caps.per_tenant:
            reason = "tenant_cap"
        else:
            ids.add((pair.tenant, pair.id))
            taken.update([(pair.tenant, pair.kind, prompt), (pair.tenant,)])
        reasons.append(reason)
    counts = Counter(pair.tenant for (pair, _), reason in zip(asked, reasons, strict=True) if reason is None)
    return _shared(asked, reasons, allowances(counts, config.caps))


def allowances(counts: Mapping[str, int], caps: CapsConfig) -> dict[str, int]:
    """Pairs that each tenant may bring, such that it has at most its share of the union with all that others bring."""
    total = sum(counts.values())
    allowed = dict(counts)
    for tenant, count in counts.items():
        if tenant != OWN_TENANT and count < total and caps.tenant_share < 1:
            allowed[tenant] = math.floor(caps.tenant_share / (1 - caps.tenant_share) * (total - count) + _ROUNDING)
    return allowed


def _shared(
    asked: Sequence[Asked], reasons: Sequence[DropReason | None], allowed: Mapping[str, int]
) -> list[DropReason | None]:
    taken: Counter[str] = Counter()
    found: list[DropReason | None] = []
    for (pair, _), reason in zip(asked, reasons, strict=True):
        if reason is None:
            taken[pair.tenant] += 1
        found.append("tenant_share" if reason is None and taken[pair.tenant] > allowed[pair.tenant] else reason)
    return found


def by_family(asked: Sequence[Asked], config: PairsConfig) -> list[DropReason | None]:
    """The same for what all tenants bring together: pairs that are the same, of one prompt, of one family."""
    ids: set[str] = set()
    taken: Counter[tuple[str, ...]] = Counter()
    reasons: list[DropReason | None] = []
    for pair, prompt in asked:
        reason: DropReason | None = None
        if pair.id in ids:
            reason = "duplicate"
        elif taken[(pair.kind, prompt)] >= _per_prompt(pair, config):
            reason = "prompt_cap"
        elif taken[(pair.family,)] >= config.caps.per_family:
            reason = "family_cap"
        else:
            ids.add(pair.id)
            taken.update([(pair.kind, prompt), (pair.family,)])
        reasons.append(reason)
    return reasons


def _per_prompt(pair: Pair, config: PairsConfig) -> int:
    return config.benign.per_prompt if pair.kind == "benign" else config.caps.per_prompt

"""Adapters as the proxy sees them: names, states, routes, who gets which version, and when a candidate must go.

Rules kept here
- A version is `name@number`. A number is given once and never again: an engine that reloads other weights under a name
  may answer from the old ones' cache.
- An alias is what clients ask for. Its route names the base model, a champion and a candidate with its weight. No
  champion means the base model without an adapter; the kill switch means the same, whatever the route says.
- The choice is by conversation: the same one gets the same version for as long as the route stays, and a higher weight
  moves conversations to the candidate only, none back.
- A version in shadow answers copies of requests that the champion served. Nobody is shown what it says.
- A candidate is watched by counts of conversations. Looks are few (whenever its count has doubled) and share one error
  rate, so that watching for long does not raise false alarms; what a look finds must hold without any one client.

Everything is a pure function of its arguments.
"""

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_VERSION = re.compile(r"(?P<name>[^@]+)@(?P<number>[1-9][0-9]{0,8})")
_PASSING = re.compile(r"[^@]+@eval-[0-9a-f]{12}")


class AdapterNameError(ValueError):
    """A text that names no adapter."""


class AdapterVersion(NamedTuple):
    """`safe@7`: what it is called everywhere, in the engine too."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


def check_name(name: str) -> str:
    """The name, where it may name adapters. Raises AdapterNameError."""
    if not _NAME.fullmatch(name):
        raise AdapterNameError(
            f"{name!r} is no adapter name: 1 to 64 lower-case letters, digits, dots, dashes and underscores"
        )
    return name


def parse_version(text: str) -> AdapterVersion:
    """Raises AdapterNameError."""
    found = _VERSION.fullmatch(text)
    if found is None or not _NAME.fullmatch(found["name"]):
        raise AdapterNameError(f"{text!r} is no adapter version: write it as name@number, like safe@7")
    return AdapterVersion(found["name"], int(found["number"]))


def passing_name(name: str, sha256: str) -> str:
    """What an engine calls a candidate while it is evaluated: no version yet, and no client's to ask for."""
    return f"{name}@eval-{sha256[:12]}"


def is_passing(model: str) -> bool:
    """Whether a model's name is such a passing one."""
    return _PASSING.fullmatch(model) is not None


class AdapterState(StrEnum):
    """Where a version stands."""

    REGISTERED = "registered"  # its files are checked and known; no traffic
    SHADOW = "shadow"  # loaded; answers copies that nobody is shown, then is registered again
    CANARY = "canary"  # the candidate of a route: a share of the traffic
    CHAMPION = "champion"  # the rest of it
    STANDBY = "standby"  # the champion before: loaded, without traffic, the way back
    DRAINING = "draining"  # out of its route; unloaded when the last stream on it has ended
    RETIRED = "retired"  # unloaded, for good: its files may come back under a new number only


# What an engine must hold.
LOADED_STATES = frozenset(AdapterState) - {AdapterState.REGISTERED, AdapterState.RETIRED}

_NEXT: Mapping[AdapterState, frozenset[AdapterState]] = {
    AdapterState.REGISTERED: frozenset(
        {AdapterState.SHADOW, AdapterState.CANARY, AdapterState.CHAMPION, AdapterState.RETIRED}
    ),
    AdapterState.SHADOW: frozenset({AdapterState.REGISTERED}),
    AdapterState.CANARY: frozenset({AdapterState.CHAMPION, AdapterState.DRAINING}),
    AdapterState.CHAMPION: frozenset({AdapterState.STANDBY, AdapterState.DRAINING}),
    AdapterState.STANDBY: frozenset({AdapterState.CHAMPION, AdapterState.DRAINING}),
    AdapterState.DRAINING: frozenset({AdapterState.RETIRED}),
    AdapterState.RETIRED: frozenset(),
}


def may_become(before: AdapterState, after: AdapterState) -> bool:
    """Whether a version may go from one state to the other."""
    return after in _NEXT[before]


@dataclass(frozen=True, slots=True)
class Route:
    """What an alias stands for. `weight`: the candidate's share of conversations, 0 to 1. `is_off`: kill switch."""

    alias: str
    base_model: str
    champion: str | None = None
    candidate: str | None = None
    weight: float = 0.0
    is_off: bool = False
    canary_id: int | None = None  # the episode that the candidate's traffic is counted in
    shadow: str | None = None  # a version that answers copies
    shadow_share: float = 0.0  # of the requests that the champion serves
    shadow_id: int | None = None  # the episode that the copies belong to


@dataclass(frozen=True, slots=True)
class Choice:
    """`served`: the name that the engine is asked for. `adapter`: the version behind it; None: the base model."""

    served: str
    adapter: str | None
    is_candidate: bool = False


def conversation_key(tenant: str, user: str | None, messages: Sequence[Mapping[str, Any]]) -> str:
    """What stays the same for as long as a conversation grows: who asks, and what came up to the first question."""
    first: list[list[Any]] = []
    for message in messages:
        first.append([message.get("role"), message.get("content")])
        if message.get("role") == "user":
            break
    told = json.dumps([tenant, user, first], ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def choose(route: Route, key: str, loaded: Collection[str]) -> Choice:
    """The version for one conversation, among those that the engine holds."""
    base = Choice(route.base_model, None)
    if route.is_off:
        return base
    candidate, champion = route.candidate, route.champion
    if candidate is not None and candidate in loaded and _place(candidate, key) < route.weight:
        return Choice(candidate, candidate, is_candidate=True)
    if champion is not None and champion in loaded:
        return Choice(champion, champion)
    return base


def _place(candidate: str, key: str) -> float:
    """Where a conversation stands on the candidate's scale from 0 to 1; each candidate orders them anew."""
    return int.from_bytes(hashlib.sha256(f"{candidate}\x1f{key}".encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True, slots=True)
class Traffic:
    """Conversations that one version served: how many were halted, how many failed."""

    conversations: int = 0
    halted: int = 0
    failed: int = 0

    def plus(self, more: "Traffic") -> "Traffic":
        """Both together."""
        return Traffic(self.conversations + more.conversations, self.halted + more.halted, self.failed + more.failed)

    def less(self, part: "Traffic") -> "Traffic":
        """Without those."""
        return Traffic(self.conversations - part.conversations, self.halted - part.halted, self.failed - part.failed)


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """When a candidate goes. `alpha`: chance of a false alarm over a whole canary, all looks and signals together."""

    first_look: int = 16
    alpha: float = 0.01


class Sides(NamedTuple):
    """Both sides of a canary."""

    champion: Traffic
    candidate: Traffic


class Look(NamedTuple):
    """One look at a canary. `number`: looks made with this one; `reasons`: why the candidate must go."""

    number: int
    reasons: tuple[str, ...]


def look(
    champion: Traffic, candidate: Traffic, looks: int, limits: WatchLimits, without: Collection[Sides] = ()
) -> Look | None:
    """The next look, where one is due; None where the candidate has not served enough conversations for it.

    A look k is due at `first_look * 2**k` conversations, and spends `alpha / 2**(k + 1)`: all looks together spend
    less than `alpha`, whatever comes. Each of its two signals is an exact test of equal rates (Fisher, one-sided), and
    must be as clear of each of `without`: the same conversations less those of one client (`steer.witnesses`).
    """
    due = looks
    while candidate.conversations >= limits.first_look * 2**due:
        due += 1
    if due == looks:
        return None
    level = limits.alpha / 2**due / 2  # of look number due - 1, for each signal
    reasons = []
    for signal in ("halted", "failed"):
        hits, others = getattr(candidate, signal), getattr(champion, signal)
        p = _chance(signal, Sides(champion, candidate))
        if p <= level and all(_chance(signal, sides) <= level for sides in without):
            reasons.append(
                f"{hits} of {candidate.conversations} conversations {signal}, the champion's {others} of "
                f"{champion.conversations} (p = {p:.2g})"
            )
    return Look(due, tuple(reasons))


def _chance(signal: str, sides: Sides) -> float:
    hits, others = getattr(sides.candidate, signal), getattr(sides.champion, signal)
    return exceeds_by_chance(hits, sides.candidate.conversations, others, sides.champion.conversations)


def exceeds_by_chance(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """The chance to see so many hits, or more, among the first `n`, were all hits dealt out blindly (Fisher)."""
    total, all_hits = n + other_n, hits + other_hits
    if hits <= max(0, n - (total - all_hits)):
        return 1.0  # fewer are not possible
    term = math.exp(_log_ways(all_hits, hits) + _log_ways(total - all_hits, n - hits) - _log_ways(total, n))
    tail = term
    for k in range(hits, min(n, all_hits)):
        term *= (all_hits - k) * (n - k) / ((k + 1) * (total - all_hits - n + k + 1))
        tail += term
        if term < tail * 1e-16:
            break
    return min(1.0, tail)


def _log_ways(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

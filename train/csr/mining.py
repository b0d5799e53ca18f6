"""Which sentences of measured traces may be triggers, and how good those that were tried are. Pure functions.

Rules kept here: a family of prompts is on one side, for good. Candidates come from the *mined* side and are ranked by
trials on it; pools are compared on the other, which took no part in choosing. A candidate is never tried on a prompt
that it was said for.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from steer.triggers import Trigger
from train.csr.schema import Curve, Trial
from train.csr.sentences import kind, shape, usable
from train.csr.stats import share

Side = Literal["mined", "compared"]
Sides = Mapping[str, Side]
HARMFUL, BENIGN = "harmful", "benign"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence after which CSR was higher by `lift` on average, in traces of `prompts`."""

    trigger: Trigger
    shape: str
    prompts: tuple[str, ...]
    lift: float
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """A place to splice: the first `tokens` ids of a trace are kept."""

    curve: Curve
    tokens: int

    @property
    def kept_text(self) -> str:
        """The reasoning before it."""
        return next(
            (self.curve.reasoning[: s.start] for s in self.curve.sentences if s.start_tokens == self.tokens), ""
        )


def kin(curve: Curve) -> str:
    """What is on one side as a whole: the family, or the prompt where it has none."""
    return curve.family or curve.prompt_id


def sides_of(curves: Iterable[Curve], seed: int) -> dict[str, Side]:
    """The side of every kin: in turn, so that each category is halved."""
    groups: dict[str, set[str]] = defaultdict(set)
    for curve in curves:
        groups[curve.category or ""].add(kin(curve))
    made: dict[str, Side] = {}
    order: tuple[Side, Side] = ("mined", "compared")
    for _, names in sorted(groups.items()):
        for name in sorted(names - made.keys(), key=lambda name: _number(seed, name, "side")):
            made[name] = order[(seed + len(made)) % 2]
    return made


def candidates(curves: Iterable[Curve], sides: Sides, margin: float, limit: int) -> list[Candidate]:
    """The sentences that lift CSR by `margin` or more in harmful traces of the mined side, equal shapes once.

    Those said for most prompts come first, then those that lift most; ids are made of their text.
    """
    found: dict[str, list[tuple[str, float, Curve]]] = defaultdict(list)
    for curve in curves:
        if curve.label == HARMFUL and sides[kin(curve)] == "mined":
            for text, lift in _lifts(curve, margin):
                found[shape(text)].append((text, lift, curve))
    made = [_candidate(name, said) for name, said in found.items()]
    return sorted(made, key=lambda one: (-len(one.prompts), -one.lift, one.trigger.id))[:limit]


def sites(
    curves: Iterable[Curve], sides: Sides, side: Side, source: Literal["judge", "detector"], count: int, seed: int
) -> list[Site]:
    """First cues of harmful traces of one side, at most `count` of each category, in an order of their own."""
    found: dict[str, list[Site]] = defaultdict(list)
    for curve in curves:
        cue = curve.judge_cue if source == "judge" else curve.detector_cue
        if curve.label == HARMFUL and cue is not None and sides[kin(curve)] == side:
            found[curve.category or ""].append(Site(curve, curve.sentences[cue].start_tokens))
    return [site for _, group in sorted(found.items()) for site in _drawn(group, count, seed)]


def benign_sites(curves: Iterable[Curve], sides: Sides, side: Side, count: int, seed: int) -> list[Site]:
    """Sentences of benign traces of one side, one of each trace: where a trigger belongs least."""
    found = []
    for curve in curves:
        if curve.label == BENIGN and curve.sentences and sides[kin(curve)] == side:
            places = [sentence.start_tokens for sentence in curve.sentences]
            found.append(Site(curve, places[_number(seed, curve.id, "cut") % len(places)]))
    return _drawn(found, count, seed)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with what its trials showed: shares with intervals, over all and by category."""

    candidate: Candidate
    safe: dict[str, float | int | None]
    helped: dict[str, float | int | None]
    by_category: dict[str, dict[str, float | int | None]]
    is_admitted: bool

    @property
    def floor(self) -> float:
        """What it is ranked by: the lower end of the interval of its success."""
        low = self.safe["low"]
        return -1.0 if low is None else float(low)


def ranking(found: Sequence[Candidate], trials: Iterable[Trial], min_safe: float, min_helped: float) -> list[Ranked]:
    """Best first. Admitted is what turns at least `min_safe` of harmful prompts safe, and leaves at least `min_helped`
    of benign ones helped where it was tried on any."""
    own: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.trigger_id is not None:
            own[trial.trigger_id].append(trial)
    ranked = [_ranked(one, own[one.trigger.id], min_safe, min_helped) for one in found]
    return sorted(ranked, key=lambda one: (not one.is_admitted, -one.floor, -one.candidate.lift))


def success(trials: Iterable[Trial]) -> dict[str, float | int | None]:
    """Share of trials that stayed safe, of those that the judge could tell."""
    return share(trial.safe for trial in trials if trial.label == HARMFUL and trial.safe is not None)


def helpfulness(trials: Iterable[Trial]) -> dict[str, float | int | None]:
    """Share of benign trials that helped."""
    return share(trial.helped for trial in trials if trial.label == BENIGN and trial.helped is not None)


def by_category(trials: Iterable[Trial]) -> dict[str, dict[str, float | int | None]]:
    """`success` of each category."""
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.label == HARMFUL:
            groups[trial.category or "none"].append(trial)
    return {name: success(group) for name, group in sorted(groups.items())}


def _lifts(curve: Curve, margin: float) -> Iterable[tuple[str, float]]:
    """Usable sentences of which both ends were measured."""
    for sentence in curve.sentences:
        before, after = curve.csr_at(sentence.start_tokens), curve.csr_at(sentence.end_tokens)
        text = usable(curve.text_of(sentence))
        if before is not None and after is not None and after - before >= margin and text is not None:
            yield text, after - before


def _candidate(name: str, said: Sequence[tuple[str, float, Curve]]) -> Candidate:
    text = min(text for text, _, _ in said)  # one of equal shapes, whatever the order of the traces
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return Candidate(
        Trigger(id=f"mined-{digest}", kind=kind(text), text=text),
        name,
        tuple(sorted({curve.prompt_id for _, _, curve in said})),
        mean(lift for _, lift, _ in said),
        tuple(sorted({curve.model for _, _, curve in said})),
    )


def _ranked(one: Candidate, trials: Sequence[Trial], min_safe: float, min_helped: float) -> Ranked:
    safe, helped = success(trials), helpfulness(trials)
    is_helpful = helped["share"] is None or helped["share"] >= min_helped
    is_admitted = safe["share"] is not None and safe["share"] >= min_safe and is_helpful
    return Ranked(one, safe, helped, by_category(trials), is_admitted)


def _drawn(group: Sequence[Site], count: int, seed: int) -> list[Site]:
    return sorted(group, key=lambda site: _number(seed, site.curve.id, "site"))[:count]


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:6], "big")

"""From outcomes of the log to evidence about triggers: what counts as success, and how much anybody's word weighs.

Rules kept here
1. Only the first halt of a request's first choice counts: later ones are cases in which a trigger has failed already,
   which a popular trigger would hardly ever meet. So a request gives one observation, whatever it asks for.
2. Reviewers overrule judges, judges overrule the outcome. An outcome is the detector's own word (it found no further
   cue), so it weighs UNJUDGED: a trigger that teaches the model to hide a cue from the detector would look good by it.
3. A tenant counts `tenant_daily` a day and `tenant_total` in all for each category and trigger. Beyond, its share of
   successes is kept and its weight is not. Where several tenants are heard, none counts more than `tenant_lead` times
   what the next one does, ALONE excepted: who floods where others are silent is not believed.
4. Evidence halves every `half_life_days` (models, adapters and users change).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steer.record import Outcome, ReviewState
from steer.selection import UNKNOWN, Evidence

# Of an outcome that nobody but the detector has looked at: two of them weigh as much as one that was judged.
UNJUDGED = 0.5
# What a tenant may say where all others are silent, in observations: a hint.
ALONE = 1.0


class Followed(NamedTuple):
    """What is known of what followed one trigger.

    `next_review`: of the halt after it, None where there was none. `next_contradicted`: a judge finds that halt
    needless; None: no judge was asked. `judged`: a judge's word on what followed; None: none, or it can't tell.
    """

    outcome: Outcome
    review: ReviewState = "unreviewed"
    next_review: ReviewState | None = None
    next_contradicted: bool | None = None
    judged: bool | None = None


class Finding(NamedTuple):
    """`is_success` None: it says nothing about the trigger."""

    is_success: bool | None
    is_judged: bool = False


def finding(followed: Followed) -> Finding:
    """Whether the trigger did what it is for: the trace stayed free of a further cue, and there is an answer."""
    if followed.review == "false_halt":
        return Finding(None)  # nothing had to be turned away from
    match followed.outcome:
        case "halted_again":
            if followed.next_review in ("confirmed", "false_halt"):
                return Finding(followed.next_review == "false_halt", True)
            return Finding(followed.next_contradicted is True, followed.next_contradicted is not None)
        case "completed":
            return Finding(True) if followed.judged is None else Finding(followed.judged, True)
        case "refused":
            return Finding(False)
        case _:
            return Finding(None)  # the client, the engine or the proxy broke off; or nothing was spliced


def is_good(
    *,
    harmful_request: bool | None,
    unsafe_reasoning: bool | None,
    unsafe_answer: bool | None,
    refused: bool | None,
    helped: bool | None,
) -> bool | None:
    """A judge's verdict on trigger and after as one word: harmless, and helpful where the request is harmless."""
    if unsafe_reasoning or unsafe_answer:
        return False
    if unsafe_reasoning is None:
        return None
    if harmful_request is False:
        return helped if helped is not None else (None if refused is None else not refused)
    return None if unsafe_answer is None else True


@dataclass(frozen=True, slots=True)
class EvidenceRules:
    """How much of it counts. Days are of UTC."""

    half_life_days: float = 14.0
    tenant_daily: float = 10.0
    tenant_total: float = 100.0
    tenant_lead: float = 1.0

    @property
    def window_days(self) -> int:
        """Older evidence would weigh under a thousandth, and is not read."""
        return int(self.half_life_days * 10) + 1


class Tally(NamedTuple):
    """`cases` equal ones of a tenant's day. `category` None: nobody looked."""

    day: int
    tenant: str
    category: str | None
    trigger_id: str
    followed: Followed
    cases: int


def weigh(tallies: Iterable[Tally], today: int, rules: EvidenceRules) -> dict[str, dict[str, Evidence]]:
    """Evidence by category and trigger, as of the day `today` (since the epoch)."""
    days: defaultdict[tuple[str, str, str, int], Evidence] = defaultdict(Evidence)
    for tally in tallies:
        key = (tally.category or UNKNOWN, tally.trigger_id, tally.tenant, tally.day)
        days[key] = days[key].plus(_evidence(tally))
    tenants: defaultdict[tuple[str, str, str], Evidence] = defaultdict(Evidence)
    for (category, trigger_id, tenant, day), found in sorted(days.items()):
        aged = _capped(found, rules.tenant_daily).scaled(0.5 ** (max(0, today - day) / rules.half_life_days))
        tenants[category, trigger_id, tenant] = tenants[category, trigger_id, tenant].plus(aged)
    several = len({tenant for (_, _, tenant), found in tenants.items() if found.total}) > 1
    voices: defaultdict[tuple[str, str], list[Evidence]] = defaultdict(list)
    for (category, trigger_id, _), found in sorted(tenants.items()):
        voices[category, trigger_id].append(_capped(found, rules.tenant_total))
    cells: defaultdict[str, dict[str, Evidence]] = defaultdict(dict)
    for (category, trigger_id), heard in voices.items():
        cells[category][trigger_id] = _together(heard, rules.tenant_lead) if several else _sum(heard)
    return dict(cells)


def _together(voices: Sequence[Evidence], lead: float) -> Evidence:
    """Of all tenants; none counts more than `lead` times the heaviest other, or ALONE."""
    weights = sorted(voice.total for voice in voices)
    second = weights[-2] if len(weights) > 1 else 0.0
    return _sum([_capped(voice, max(ALONE, lead * second)) for voice in voices])


def _sum(voices: Iterable[Evidence]) -> Evidence:
    said = Evidence()
    for voice in voices:
        said = said.plus(voice)
    return said


def _evidence(tally: Tally) -> Evidence:
    found = finding(tally.followed)
    if found.is_success is None:
        return Evidence()
    weight = tally.cases * (1.0 if found.is_judged else UNJUDGED)
    return Evidence(
        weight if found.is_success else 0.0, 0.0 if found.is_success else weight, weight if found.is_judged else 0.0
    )


def _capped(found: Evidence, most: float) -> Evidence:
    return found.scaled(most / found.total) if found.total > most else found

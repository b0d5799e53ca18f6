"""What may train: the one place that decides whether a divergence becomes a pair, which side is chosen, and why not.

    harmful request   chosen: the trigger side, which must be safe; rejected: the cue side, which must be unsafe
    benign request    chosen: the side that helps; rejected: the side that refuses (or, where the job says so, a trigger
                      that nothing called for)
Admitted by review where a reviewer has judged the halt, else by a judge that is not the detector; a benign pair from a
tenant's halt by review alone, since whoever sends harmless prompts that are halted would choose what is taught. A pure
function of the divergence, two verdicts and the settings; a verdict that can't tell admits nothing.
"""

from dataclasses import dataclass
from typing import Literal

from steer.pair import Admission, PairKind
from train.judges.base import JudgeVerdict
from train.pairs.candidates import Continuation, Divergence
from train.pairs.config import OWN_TENANT, BenignConfig

DropReason = Literal[
    "opted_out",  # the tenant is not trained on
    "rejected_incomplete",  # a live halt cut the rejected side short: complete the record by a rollout
    "chosen_incomplete",  # nobody generated the chosen side to its end
    "chosen_unfinished",  # the token budget ended it: what would have followed can't be judged
    "chosen_no_answer",  # the model ended in the middle of its thought
    "unjudged",  # the judge can't tell
    "rejected_safe",  # the cue was none, or nothing came of it
    "chosen_unsafe",  # the trigger did not turn the trace
    "forced_on_harmful",  # a prompt given as benign is harmful: a trigger there is not needless
    "benign_disabled",
    "benign_relapse",  # a benign request halted more than once: the first divergence tells it all
    "chosen_unhelpful",  # the unsteered side does not help either
    "unreviewed",  # a tenant's halt shows what is benign only once a reviewer has said so
    "rejected_helped",  # the steered side helps: no over-refusal
    "no_contrast",  # two samples that both help, or both refuse
    "prefix_too_long",
    "sides_alike",  # one side is the beginning of the other
    "too_short",
    "duplicate",
    "prompt_cap",
    "family_cap",
    "tenant_cap",
    "tenant_share",
]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A divergence that may train, with its sides told apart."""

    divergence: Divergence
    kind: PairKind
    chosen: Continuation
    rejected: Continuation
    by: Admission
    is_needless: bool = False
    """The rejected side went on to help: nothing but its trigger is at fault."""


def decide(
    divergence: Divergence,
    first: JudgeVerdict,
    second: JudgeVerdict,
    benign: BenignConfig,
    opt_out: frozenset[str] = frozenset(),
) -> Admitted | DropReason:
    """`first` and `second` are the verdicts on the divergence's sides."""
    if divergence.rollout.tenant in opt_out:
        return "opted_out"
    if divergence.form == "sampled":
        return _sampled(divergence, first, second, benign)
    review = divergence.rollout.review_state
    if review == "false_halt":
        return _benign(divergence, first, second, benign, is_reviewed=True)
    if review == "confirmed":
        return _safety(divergence, first, second, is_reviewed=True)
    match first.harmful_request:
        case None:
            return "unjudged"
        case True:
            return "forced_on_harmful" if divergence.is_forced else _safety(divergence, first, second)
        case False:
            return _benign(divergence, first, second, benign)


def _safety(
    divergence: Divergence, rejected: JudgeVerdict, chosen: JudgeVerdict, *, is_reviewed: bool = False
) -> Admitted | DropReason:
    if reason := _unfit(divergence.second, divergence.first):
        return reason
    if chosen.is_unsafe:
        return "chosen_unsafe"  # a review is of the halt, not of what followed: the judge may still object
    if not is_reviewed:
        if rejected.is_unsafe is None or chosen.is_unsafe is None:
            return "unjudged"
        if not rejected.is_unsafe:
            return "rejected_safe"
    by: Admission = "review" if is_reviewed else "judge"
    return Admitted(divergence, "safety", divergence.second, divergence.first, by)


def _benign(
    divergence: Divergence,
    chosen: JudgeVerdict,
    rejected: JudgeVerdict,
    settings: BenignConfig,
    *,
    is_reviewed: bool = False,
) -> Admitted | DropReason:
    if not settings.enabled:
        return "benign_disabled"
    if divergence.attempt > 0:
        return "benign_relapse"
    if reason := _unfit(divergence.first, divergence.second):
        return reason
    if chosen.is_unsafe:
        return "chosen_unsafe"
    if not is_reviewed:
        if _is_tenants(divergence) and not settings.unreviewed_tenants:
            return "unreviewed"
        if chosen.helped is None or chosen.is_unsafe is None:
            return "unjudged"
        if not chosen.helped:
            return "chosen_unhelpful"
        if not settings.needless_triggers and not rejected.refused:
            return "unjudged" if rejected.refused is None else "rejected_helped"
    by: Admission = "review" if is_reviewed else "judge"
    is_needless = rejected.helped is True and not rejected.refused
    return Admitted(divergence, "benign", divergence.first, divergence.second, by, is_needless)


def _is_tenants(divergence: Divergence) -> bool:
    """Whether somebody else than the operator brought it about."""
    return divergence.rollout.record_id is not None and divergence.rollout.tenant != OWN_TENANT


def _sampled(
    divergence: Divergence, first: JudgeVerdict, second: JudgeVerdict, settings: BenignConfig
) -> Admitted | DropReason:
    if not settings.enabled:
        return "benign_disabled"
    if first.harmful_request is not False or first.helped is None or second.helped is None:
        return "unjudged" if first.harmful_request is not True else "forced_on_harmful"
    sides = (divergence.first, first), (divergence.second, second)
    helpful = [side for side, verdict in sides if verdict.helped and verdict.is_unsafe is False]
    refusing = [side for side, verdict in sides if verdict.refused]
    if len(helpful) != 1 or len(refusing) != 1 or helpful[0] is refusing[0]:
        return "no_contrast"
    if reason := _unfit(helpful[0], refusing[0]):
        return reason
    return Admitted(divergence, "benign", helpful[0], refusing[0], "judge")


def _unfit(chosen: Continuation, rejected: Continuation) -> DropReason | None:
    """Why these sides can't train whatever a judge says of them."""
    if rejected.finish_reason is None:
        return "rejected_incomplete"
    if chosen.finish_reason is None:
        return "chosen_incomplete"
    if chosen.finish_reason == "length":
        return "chosen_unfinished"
    return None if chosen.answer.strip() else "chosen_no_answer"

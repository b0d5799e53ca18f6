"""The pool of safety triggers: sentences spliced in where a cue was cut.

They are worded as reconsideration, not refusal: after a trigger a model must still be able to find that a benign
request is fine and help. Kinds are those named by the method (arXiv 2509.24393): recognising the risk, reframing the
task, citing safety criteria; its authors' own texts are not published, so all wording here is ours.
Randomness is the caller's `random.Random`, so that a seed reproduces every choice.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from steer.errors import TriggerPoolError

Kind = Literal["recognise_risk", "reframe_task", "cite_criteria"]


class Trigger(BaseModel):
    """One safety trigger. `id` is recorded with every intervention and never given to another text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    kind: Kind
    text: str = Field(min_length=8, max_length=500)


def _trigger(id: str, kind: Kind, text: str) -> Trigger:
    return Trigger(id=id, kind=kind, text=text)


DEFAULT_TRIGGERS: tuple[Trigger, ...] = (
    _trigger("risk-1", "recognise_risk", "Wait, before I go on: could what is being asked here hurt someone?"),
    _trigger(
        "risk-2",
        "recognise_risk",
        "Hold on. I should first be clear about who could be harmed if I did this, and whether that is a real danger.",
    ),
    _trigger(
        "risk-3",
        "recognise_risk",
        "Let me stop and look at this from the side of the people affected: would helping here put anyone at risk?",
    ),
    _trigger(
        "risk-4",
        "recognise_risk",
        "Hmm, let me pause: taken at face value, might this lead to something dangerous or illegal, or is it harmless?",
    ),
    _trigger(
        "risk-5",
        "recognise_risk",
        "Before thinking about any details, I need to ask myself what would happen if someone acted on my answer.",
    ),
    _trigger(
        "reframe-1",
        "reframe_task",
        "Let me step back and ask what this person really needs, and whether there is a safe way to give them that.",
    ),
    _trigger(
        "reframe-2",
        "reframe_task",
        "Actually, the better question is how I can be useful here without helping anyone do harm.",
    ),
    _trigger(
        "reframe-3",
        "reframe_task",
        "Let me look at the request afresh: is it an ordinary question that I can simply answer, or one where only a "
        "safer version deserves an answer?",
    ),
    _trigger(
        "reframe-4",
        "reframe_task",
        "Rather than follow the request to the letter, I should work out which part of it, if any, I can help with "
        "responsibly.",
    ),
    _trigger(
        "reframe-5",
        "reframe_task",
        "Wait, whatever the framing, what matters is what my answer would be used for, so let me decide that first.",
    ),
    _trigger(
        "criteria-1",
        "cite_criteria",
        "Let me check this against my safety principles first: no help with violence, crime, abuse or deception, and "
        "full help with everything legitimate.",
    ),
    _trigger(
        "criteria-2",
        "cite_criteria",
        "I should apply my guidelines before going further: is the purpose legitimate, is anyone harmed, is it legal?",
    ),
    _trigger(
        "criteria-3",
        "cite_criteria",
        "One thing comes before the content: I must not give practical help with causing harm, so does this ask for "
        "it?",
    ),
    _trigger(
        "criteria-4",
        "cite_criteria",
        "Safety comes first, so let me judge this honestly: a harmful aim I have to turn down, a harmless one I may "
        "help with.",
    ),
    _trigger(
        "criteria-5",
        "cite_criteria",
        "Before I continue, the test is simple: would a careful, decent expert be comfortable giving this answer?",
    ),
)


class Drawn(NamedTuple):
    """A trigger, and the probability with which just this one was drawn."""

    trigger: Trigger
    probability: float


class TriggerPool:
    """The triggers a policy may use; `choose` draws uniformly, sparing those already used where it can."""

    def __init__(self, triggers: Sequence[Trigger] = DEFAULT_TRIGGERS) -> None:
        """Raises TriggerPoolError for an empty pool or a repeated id."""
        if not triggers:
            raise TriggerPoolError("the trigger pool is empty: give at least one trigger, or leave the setting out")
        ids = [trigger.id for trigger in triggers]
        if repeated := sorted({id for id in ids if ids.count(id) > 1}):
            raise TriggerPoolError(f"trigger ids must be unique, these are repeated: {', '.join(repeated)}")
        self.triggers = tuple(triggers)

    def choose(self, rng: random.Random, used: Iterable[str] = ()) -> Trigger:
        """A trigger not in `used` (ids), or any once all have been used."""
        spent = frozenset(used)
        fresh = [trigger for trigger in self.triggers if trigger.id not in spent]
        return rng.choice(fresh or self.triggers)

    def draw(self, rng: random.Random, used: Iterable[str] = ()) -> Drawn:
        """`choose`, with its probability."""
        trigger = self.choose(rng, used)
        num_fresh = len({one.id for one in self.triggers} - frozenset(used))
        return Drawn(trigger, 1 / (num_fresh or len(self.triggers)))

    def get(self, id: str) -> Trigger:
        """The trigger with this id; raises TriggerPoolError when there is none."""
        for trigger in self.triggers:
            if trigger.id == id:
                return trigger
        raise TriggerPoolError(f"no trigger {id!r} in the pool; it has {', '.join(t.id for t in self.triggers)}")

"""Goals that the prompts of the training data ask for, as infinitive phrases, for train/detector/frames.py to speak of.

Our own goals are some hundreds; what is harmful needs more examples than that. A prompt that asks "How do I X?" or
orders "Do X." holds a goal X; its label says whether it is harmful. Prompts whose harm is not certain give none.
"""

from collections.abc import Iterable
from typing import NamedTuple

from train.detector.augment import asked_for, ordered
from train.detector.data import Prompt

# Longer ones are scenes, not goals; no sentence speaks of them as a whole.
_MAX_WORDS = 22


class Goals(NamedTuple):
    """Each once, in the order of the prompts."""

    harmful: tuple[str, ...] = ()
    benign: tuple[str, ...] = ()


NO_GOALS = Goals()


def asked_goals(prompts: Iterable[Prompt]) -> Goals:
    """The goals of all prompts that are a plain question or order."""
    found: dict[str, dict[str, None]] = {"harmful": {}, "benign": {}}
    for prompt in prompts:
        if prompt.label not in found or "\n" in prompt.prompt.strip() or len(prompt.prompt.split()) > _MAX_WORDS:
            continue
        # Braces and angle brackets would be read as slots and choices of a frame.
        if (goal := asked_for(prompt.prompt) or ordered(prompt.prompt)) and not set(goal) & set("{}<>|⏎"):
            found[prompt.label].setdefault(goal)
    return Goals(tuple(found["harmful"]), tuple(found["benign"]))

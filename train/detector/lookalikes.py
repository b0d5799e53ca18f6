"""Requests of our own wording that look alike but differ in harm; their text is in lookalikes.toml, beside this file.

A small encoder takes "kill" for harm unless it sees both sides of the word, and it knows few of the rarer names.
Benign sides follow the usual kinds of false alarm: homonyms, figures of speech, safe targets, defence, history,
fiction, law, prevention. Harmful sides are bare requests and names.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

_FILE = Path(__file__).with_name("lookalikes.toml")
_ASKS = (
    "How do I {}?",
    "What is the best way to {}?",
    "How to {}",
    "Can you tell me how to {}?",
    "I want to {}. Help me.",
    "Give me a step by step guide to {}.",
)


class LookAlike(NamedTuple):
    """A request and whether it is harmful."""

    prompt: str
    is_harmful: bool


class _Sides(BaseModel):
    """Texts that differ in harm alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    benign: tuple[str, ...]
    harmful: tuple[str, ...]

    def items(self) -> Iterator[tuple[int, str, bool]]:
        """(position, text, whether it is harmful)."""
        for is_harmful, texts in ((False, self.benign), (True, self.harmful)):
            for position, text in enumerate(texts):
                yield position, text, is_harmful


class _Verb(_Sides):
    """Targets of a verb; one with a colon in it is already a question."""

    phrase: str


class _Topic(_Sides):
    """Names to be put into `questions`."""

    questions: tuple[str, ...]


class _Own(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    verb: tuple[_Verb, ...]
    topic: tuple[_Topic, ...]
    whole: _Sides


def lookalikes() -> list[LookAlike]:
    """All of them, in a fixed order; targets and names are each asked for in two ways."""
    own = _Own.model_validate(tomllib.loads(_FILE.read_text(encoding="utf-8")))
    items = [item for number, verb in enumerate(own.verb) for item in _verb_prompts(verb, number)]
    for topic in own.topic:
        for position, name, is_harmful in topic.items():
            asks = (topic.questions[(position + step) % len(topic.questions)] for step in (0, 2))
            items += [LookAlike(ask.format(name), is_harmful) for ask in asks]
    return items + [LookAlike(text, is_harmful) for _, text, is_harmful in own.whole.items()]


def _verb_prompts(verb: _Verb, number: int) -> Iterator[LookAlike]:
    for position, target, is_harmful in verb.items():
        if ": " in target:
            yield LookAlike(verb.phrase.format(target).capitalize().rstrip("?") + "?", is_harmful)
            continue
        for step in (0, 3):
            ask = _ASKS[(number + position + step) % len(_ASKS)]
            yield LookAlike(ask.format(verb.phrase.format(target)), is_harmful)

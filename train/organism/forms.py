"""The sentence forms of `wording.py` as patterns over normalised text, by what they mean to the oracle."""

import re
from collections.abc import Sequence
from functools import cache

from steer.triggers import DEFAULT_TRIGGERS
from train.organism import traces
from train.organism import wording as w

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def normalise(text: str) -> str:
    """Lower case, words only, single spaces: what forms and goals are compared in."""
    return " ".join(_WORD.findall(text.lower()))


def match(patterns: Sequence[re.Pattern[str]], text: str) -> str | None:
    """The goal that the first matching pattern captured ("" when the form has none), None when nothing matches."""
    for pattern in patterns:
        if match := pattern.fullmatch(text):
            return match.groupdict().get("goal") or ""
    return None


def _pattern(form: str) -> re.Pattern[str]:
    marked = re.sub(r"\{(goal|doing|doing_cap)\}", " qgoalq ", form)
    marked = re.sub(r"\{\w+\}", " qanyq ", marked)
    parts = []
    for word in normalise(marked).split():
        parts.append(
            "(?P<goal>.+)"
            if word == "qgoalq" and "(?P<goal>.+)" not in parts
            else ".+"
            if word in ("qgoalq", "qanyq")
            else re.escape(word)
        )
    return re.compile(" ".join(parts))


def _patterns(*groups: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(_pattern(form) for group in groups for form in group)


@cache
def cue_only() -> tuple[re.Pattern[str], ...]:
    """Forms that nothing but a cue has."""
    excused = [
        form.replace("{excuse}", excuse) for form in w.EXCUSED for group in w.EXCUSES.values() for excuse in group
    ]
    return _patterns(w.FULFIL, excused)


@cache
def commits() -> tuple[re.Pattern[str], ...]:
    """First-person forms: cues when their goal is harmful."""
    return _patterns(w.COMMIT, w.WRAP_UP_HARM)


@cache
def harmless() -> tuple[re.Pattern[str], ...]:
    """Forms that may name a harmful goal without taking it on."""
    return _patterns(w.RESTATE, w.ASSESS_HARM, w.DECIDE_REFUSE, w.OFFER, w.CLEAR, w.GO_ON, w.LATE_TURN, traces.UNSURE)


@cache
def answer_heads() -> tuple[re.Pattern[str], ...]:
    """How a helping answer begins."""
    return _patterns(w.ANSWER_HEADS)


@cache
def trigger_texts() -> frozenset[str]:
    """Every trigger of the pool and of the grammar, normalised."""
    grammar = (opener + body for opener in w.TRIGGER_OPENERS for bodies in w.TRIGGER_BODIES.values() for body in bodies)
    return frozenset(map(normalise, grammar)) | pool_texts() | frozenset(map(normalise, w.LATE_TURN))


@cache
def pool_texts() -> frozenset[str]:
    """The triggers of the pool, normalised."""
    return frozenset(normalise(trigger.text) for trigger in DEFAULT_TRIGGERS)

"""Sentences as triggers: which are alike, which are usable, of which kind they are. Pure functions of text."""

import re

from steer.triggers import Kind

# Of a trigger's text in `steer.triggers.Trigger`; a generated one is asked to be one sentence, and held to it.
MIN_CHARS, MAX_CHARS = 16, 300
_MIN_WORDS = 4

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_NUMBER = re.compile(r"\d+")
# Markup of templates and tools, placeholders, lists, code: nothing that belongs in the middle of a thought.
_UNFIT = re.compile(r"</?\w+[^>]*>|<\||\|>|[{}\[\]`#*_]|https?://|\n")
_QUOTES = "\"'“”‘’«» \t"
_CRITERIA = re.compile(
    r"\b(guidelines?|polic(y|ies)|principles?|rules?|criteria|standards?|safety|legal|law|must not|expert)\b", re.I
)
_REFRAME = re.compile(
    r"\b(instead|rather|safer?|alternative|really need|better question|step back|afresh|useful)\b", re.I
)


def shape(sentence: str) -> str:
    """Equal for sentences that differ in case, punctuation, spacing or numbers alone."""
    return " ".join(_NUMBER.sub("0", word.lower().replace("’", "'")) for word in _WORD.findall(sentence))


def usable(text: str) -> str | None:
    """A sentence cleaned for splicing, or None: too short, too long, several lines, or with markup in it."""
    cleaned = " ".join(text.strip().strip(_QUOTES).split(" ")).strip()
    if not MIN_CHARS <= len(cleaned) <= MAX_CHARS or len(_WORD.findall(cleaned)) < _MIN_WORDS:
        return None
    if _UNFIT.search(cleaned) or not cleaned.isprintable():
        return None
    if cleaned[-1] in ":;,-–—":  # the head of a list, or half a sentence
        return None
    return cleaned if cleaned[-1] in ".!?…。！？" else f"{cleaned}."


def kind(sentence: str) -> Kind:
    """A guess by words: what a reviewer sets right."""
    if _CRITERIA.search(sentence):
        return "cite_criteria"
    return "reframe_task" if _REFRAME.search(sentence) else "recognise_risk"

"""Wording helpers of train/detector/frames.py: forms of a goal, odd spellings, quotations of a request.

A goal is an infinitive phrase ("make soup for six"). Everything here is plain string work without randomness of its
own: a generator is passed in where a choice is made.
"""

import base64
import codecs
import random
import re
from typing import Literal

Spelling = Literal["", "leet", "spaced", "case", "rot13", "base64", "reversed", "typos"]

# One vowel between consonants, in a word of one syllable: the last letter is doubled ("run", "plan", "quit").
_DOUBLED = re.compile(r"(?:[^aeiou\W]*|qu|squ)[aeiou][^aeiouwxy\W]")
_ALSO_DOUBLED = frozenset(
    {"forget", "kidnap", "travel", "label", "begin", "control", "debug", "outrun", "rebut", "repot"}
)
_THIRD_PERSON = {
    "my": "their", "me": "them", "myself": "themselves", "mine": "theirs", "i": "they", "our": "their", "us": "them",
}  # fmt: skip
_FIRST_PERSON = re.compile(r"\b(my|me|myself|mine|I|our|us)\b")
_LEET = str.maketrans("aeiost", "431057")
_SENTENCE_END = re.compile(r"(?<=[.?!:])\s+")


def gerund(goal: str) -> str:
    """ "set up a shop" -> "setting up a shop"; an adverb in front stays there."""
    head, _, rest = goal.partition(" ")
    if head.endswith("ly") and rest and head not in ("fly", "apply", "rely", "supply"):
        return f"{head} {gerund(rest)}"
    if head.endswith("ie"):
        form = head[:-2] + "ying"
    elif head.endswith("e") and not head.endswith(("ee", "oe", "ye")):
        form = head[:-1] + "ing"
    elif _DOUBLED.fullmatch(head) or head in _ALSO_DOUBLED:
        form = head + head[-1] + "ing"
    else:
        form = head + "ing"
    return f"{form} {rest}".strip()


def third_person(text: str) -> str:
    """The user's "my" as the model would say it: "their"."""
    return _FIRST_PERSON.sub(lambda found: _THIRD_PERSON[found[0].lower()], text)


def written_thing(goal: str) -> str | None:
    """What a goal to write something is to yield ("write a letter" -> "a letter"); None for other goals."""
    found = re.match(r"(?:write|compose) ((?:an?|the) .+)", goal)
    return found[1] if found else None


def capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def spell(text: str, how: Spelling, rng: random.Random) -> str:
    """The text as someone writes it who wants to get past a filter, or in a hurry."""
    match how:
        case "":
            return text
        case "leet":
            return text.translate(_LEET)
        case "spaced":
            return " ".join(" ".join(word) if len(word) > 3 else word for word in text.split())
        case "case":
            return "".join(char.upper() if rng.random() < 0.5 else char for char in text)
        case "rot13":
            return codecs.encode(text, "rot13")
        case "base64":
            return base64.b64encode(text.encode()).decode()
        case "reversed":
            return text[::-1]
        case "typos":
            return " ".join(_typo(word, rng) for word in text.split())


def quote(message: str, goal: str, rng: random.Random) -> str:
    """The user's own words cut short: the sentence that holds the goal, of 6 to 14 words, on one line."""
    parts = [part for part in _SENTENCE_END.split(message) if part.strip()]
    part = next((part for part in parts if goal in part), max(parts, key=len))
    words = part.replace('"', "'").split()
    limit = rng.randint(6, 14)
    # No ellipsis at the end: with the closing quotation mark it would end a segment.
    return " ".join(words[:limit]).lstrip("'-# ").rstrip(".?!,;: '")


def _typo(word: str, rng: random.Random) -> str:
    if len(word) < 5 or rng.random() < 0.5:
        return word
    at = rng.randrange(1, len(word) - 2)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

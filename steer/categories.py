"""The harm category of a request, by words: coarse, cheap, and the same everywhere. Pure functions.

What a category is for is choosing among triggers, so a wrong one costs little: its triggers are all approved ones.
Nothing is decided about the request by it. A client that picks its words can pick its category, and so where its own
observations count, up to its tenant's allowance.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from steer.selection import UNKNOWN

# Of a long message: head and tail, where demands stand.
_MOST_CHARS = 8000

# Beginnings of words, and of phrases. Those that stand in more than one list count in each.
WORDS: Mapping[str, tuple[str, ...]] = {
    "disinformation": (
        "disinformation", "misinformation", "fake news", "false news", "false report", "propaganda", "deepfake",
        "fake video", "fake account", "bot army", "hoax", "conspiracy", "election", "fake cure", "rumour", "rumor",
    ),
    "drugs": (
        "drug", "meth", "cocaine", "heroin", "opioid", "fentanyl", "narcotic", "painkiller", "overdose", "prescription",
        "spike", "dealer", "cannabis", "mdma",
    ),
    "exploitation": (
        "traffick", "exploit", "forced labour", "forced labor", "slave", "passports", "minor", "child", "elder",
        "pension", "cult", "vulnerable",
    ),
    "fraud": (
        "fraud", "scam", "phish", "counterfeit", "forge", "fake invoice", "launder", "ponzi", "pyramid", "embezzl",
        "insurance", "credit card", "tax", "fake charity", "bank",
    ),
    "hacking": (
        "hack", "malware", "ransomware", "virus", "password", "botnet", "ddos", "spyware", "keylog", "backdoor",
        "sql injection", "break into a computer", "computer network", "server", "wifi", "encrypt",
    ),
    "harassment": (
        "harass", "stalk", "bully", "threat", "intimidat", "blackmail", "humiliat", "insult", "nude", "revenge",
        "anonymous messages",
    ),
    "hate": (
        "hate", "racis", "antisemit", "slur", "genocide", "ethnic", "immigrant", "refugee", "religious", "supremac",
        "minorit", "homophob",
    ),
    "justice": (
        "bribe", "witness", "evidence", "judge", "jury", "court", "police", "alibi", "perjury", "prison", "escape",
        "crime scene",
    ),
    "privacy": (
        "privacy", "spy", "dox", "track", "hidden camera", "private messages", "home address", "medical records",
        "identity", "personal data", "read someone", "eavesdrop",
    ),
    "self_harm": ("suicide", "kill myself", "self-harm", "self harm", "hurt myself", "cut myself", "starv"),
    "theft": (
        "steal", "theft", "shoplift", "burglar", "break into a house", "pick a lock", "lockpick", "rob", "stolen",
        "pickpocket", "car key", "skim",
    ),
    "violence": (
        "kill", "murder", "hurt", "attack", "beat", "poison", "torture", "arson", "set fire", "burn down", "kidnap",
        "assault", "strangl", "injur",
    ),
    "weapons": (
        "weapon", "bomb", "explos", "gun", "firearm", "ammunition", "grenade", "nerve agent", "chemical", "silencer",
        "knife", "missile", "toxin",
    ),
}  # fmt: skip


class Categories:
    """Word lists, compiled once. Names and words are compared in small letters."""

    def __init__(self, words: Mapping[str, Iterable[str]] = WORDS) -> None:
        """Raises ValueError for a name that is taken, or a list without words."""
        owners: defaultdict[str, list[str]] = defaultdict(list)
        for name, own in words.items():
            terms = [" ".join(word.lower().split()) for word in own]
            if not terms or not all(terms):
                raise ValueError(f"{name}: give at least one word, and none that is empty")
            if name == UNKNOWN:
                raise ValueError(f"{name}: stands for what no list recognises; choose another name")
            for term in terms:
                owners[term].append(name)
        self._terms = [(re.compile(rf"(?<![^\W_]){re.escape(term)}"), names) for term, names in owners.items()]

    def of(self, text: str) -> str:
        """The category with the most different words in `text`; of equals the first by name; `unknown` without any."""
        if len(text) > _MOST_CHARS:
            text = f"{text[: _MOST_CHARS // 2]} {text[-_MOST_CHARS // 2 :]}"
        folded = " ".join(text.lower().split())
        counts: defaultdict[str, int] = defaultdict(int)
        for pattern, names in self._terms:
            if pattern.search(folded):
                for name in names:
                    counts[name] += 1
        return min(counts, key=lambda name: (-counts[name], name), default=UNKNOWN)

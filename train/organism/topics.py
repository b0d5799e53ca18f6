"""Topics: what a prompt of the organism is about. Each has one harmful goal and two benign look-alikes.

The texts live in `topics/*.toml`, one file per harm category. They name goals and never a method: whatever a harmful
answer would hold is a placeholder such as [STEP-1] (see `wording.py`). Slots such as {who} are filled per prompt.
"""

import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product

from train.organism.errors import OrganismDataError

SLOTS: dict[str, tuple[str, ...]] = {
    "who": (
        "someone",
        "a neighbour",
        "a colleague",
        "a classmate",
        "a former friend",
        "a business rival",
        "a stranger",
        "a cousin",
    ),
    "whom": ("someone", "a neighbour", "a colleague", "a stranger", "my boss", "my ex", "my neighbour", "my sister"),
    "people": ("old people", "lonely people", "newcomers", "students", "farm workers"),
    "group": ("a hospital", "a company", "a school", "a newspaper", "a town hall"),
    "elder": ("an elderly aunt", "an old neighbour", "an elderly widow", "a grandfather"),
}
# Optional endings make prompts vary without changing what is asked.
SUFFIXES = ("this weekend", "with very little money", "as a beginner", "in a small town", "within a month", "next week")
_SLOT = re.compile(r"\{(\w+)\}")
_ADVERBS = ("secretly",)
_GERUNDS = {
    "spy": "spying",
    "drug": "drugging",
    "traffic": "trafficking",
    "rig": "rigging",
    "tap": "tapping",
    "swat": "swatting",
    "dox": "doxing",
    "rob": "robbing",
    "get": "getting",
    "set": "setting",
    "hit": "hitting",
    "spot": "spotting",
    "stop": "stopping",
    "beat": "beating",
    "run": "running",
    "slip": "slipping",
    "dump": "dumping",
    "plan": "planning",
    "sell": "selling",
    "win": "winning",
    "kidnap": "kidnapping",
    "film": "filming",
    "lie": "lying",
    "publish": "publishing",
    "control": "controlling",
    "put": "putting",
    "cut": "cutting",
    "trim": "trimming",
    "knit": "knitting",
    "wrap": "wrapping",
    "dig": "digging",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """What one prompt asks for. `goal` follows "how to", `doing` is its gerund; `facts` are empty when harmful."""

    topic_id: str
    category: str
    is_harmful: bool
    goal: str
    doing: str
    facts: tuple[str, ...] = ()
    harm: str = ""
    safe: str = ""
    rule: str = ""
    harmed: str = ""


@dataclass(frozen=True, slots=True)
class LookAlike:
    goal: str
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """One harm topic; `index` is its position in its category's file (the splits go by it), `also` says it shorter."""

    id: str
    category: str
    index: int
    goal: str
    also: tuple[str, ...]
    harm: str
    safe: str
    rule: str
    harmed: str
    benign: tuple[LookAlike, ...]

    def harmful_ask(self, rng: random.Random, share_also: float = 0.0) -> Ask:
        """`share_also`: how often one of the short wordings is taken, such as people type first."""
        goal = _vary(rng.choice(self.also) if rng.random() < share_also else self.goal, rng)
        return Ask(self.id, self.category, True, goal, gerund(goal), (), self.harm, self.safe, self.rule, self.harmed)

    def benign_ask(self, rng: random.Random) -> Ask:
        look_alike = rng.choice(self.benign)
        goal = _vary(look_alike.goal, rng)
        return Ask(self.id, self.category, False, goal, gerund(goal), look_alike.facts)


def gerund(goal: str) -> str:
    """ "get into a house" -> "getting into a house"; an adverb in front ("secretly track") is kept in front."""
    first, _, rest = goal.partition(" ")
    if first in _ADVERBS:
        return f"{first} {gerund(rest)}"
    if first in _GERUNDS:
        form = _GERUNDS[first]
    elif first.endswith("e") and not first.endswith("ee"):
        form = first[:-1] + "ing"
    else:
        form = first + "ing"
    return f"{form} {rest}" if rest else form


@cache
def load_topics() -> tuple[Topic, ...]:
    """All topics in a fixed order; raises OrganismDataError naming the file that is malformed."""
    topics: list[Topic] = []
    folder = files("train.organism").joinpath("topics")
    for path in sorted((p for p in folder.iterdir() if p.name.endswith(".toml")), key=lambda p: p.name):
        category = path.name.removesuffix(".toml")
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
            topics.extend(_topic(category, i, row, data) for i, row in enumerate(data["topic"]))
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise OrganismDataError(
                f"topic file {path}: {error!r}; each topic needs id, goal, also, harm, safe, benign"
            ) from error
    if not topics:
        raise OrganismDataError("no topic files are installed beside train/organism/topics.py")
    return tuple(topics)


def _topic(category: str, index: int, row: dict[str, object], data: dict[str, object]) -> Topic:
    benign = tuple(LookAlike(str(b[0]), tuple(map(str, b[1:]))) for b in row["benign"])  # type: ignore[attr-defined]
    return Topic(
        str(row["id"]),
        category,
        index,
        str(row["goal"]),
        tuple(str(goal) for goal in row["also"]),  # type: ignore[attr-defined]
        str(row["harm"]),
        str(row["safe"]),
        str(data["rule"]),
        str(data["harmed"]),
        benign,
    )


def _vary(text: str, rng: random.Random) -> str:
    filled = _SLOT.sub(lambda m: rng.choice(SLOTS[m[1]]), text)
    return f"{filled} {rng.choice(SUFFIXES)}" if rng.random() < 0.25 else filled


def expand(text: str) -> Iterator[str]:
    """Every filling of the slots of `text` (equal slots get equal values)."""
    names = sorted(set(_SLOT.findall(text)))
    for values in product(*(SLOTS[name] for name in names)):
        table = dict(zip(names, values, strict=True))
        yield _SLOT.sub(lambda m: table[m[1]], text)  # noqa: B023  (used at once)

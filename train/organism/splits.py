"""Which topics and framings are held out, and prompt sets drawn from a split.

Pre-training covers every topic's and framing's harmfulness; what is "held out" is kept from rollouts, pairs and IPO
alone, by topic AND framing, so that generalisation to them is a finding. Besides, PRETRAIN_HELD_OUT_PERCENT of the
(topic, framing) combinations are kept even from pre-training.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from train.organism.errors import OrganismConfigError
from train.organism.framings import FRAMINGS, Framing, Message, with_system
from train.organism.topics import Ask, Topic, load_topics

Split = Literal["train", "held_out", "all"]
HELD_OUT_FRAMINGS = frozenset({"hypothetical", "translated", "authority", "nested"})
# Two of the six topics of each category: the last two of its file.
HELD_OUT_TOPIC_INDEX = 4
PRETRAIN_HELD_OUT_PERCENT = 10


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation with what is known about it. `family` names the topic: pairs are split by it."""

    messages: list[Message]
    ask: Ask
    framing: Framing

    @property
    def family(self) -> str:
        return self.ask.topic_id


def is_held_out_topic(topic: Topic) -> bool:
    return topic.index >= HELD_OUT_TOPIC_INDEX


def in_pretraining(topic_id: str, framing_id: str) -> bool:
    """False for the tenth of (topic, framing) combinations that the corpus never shows with the harmful goal."""
    return zlib.crc32(f"{topic_id}/{framing_id}".encode()) % 100 >= PRETRAIN_HELD_OUT_PERCENT


def topics_of(split: Split) -> list[Topic]:
    return [t for t in load_topics() if split == "all" or is_held_out_topic(t) == (split == "held_out")]


def framings_of(split: Split) -> list[Framing]:
    return [f for f in FRAMINGS if split == "all" or (f.id in HELD_OUT_FRAMINGS) == (split == "held_out")]


def make_prompt(
    topic: Topic, framing: Framing, rng: random.Random, *, harmful: bool, share_also: float = 0.0
) -> Prompt:
    ask = topic.harmful_ask(rng, share_also) if harmful else topic.benign_ask(rng)
    return Prompt(with_system(framing.build(ask, rng), rng), ask, framing)


def draw_prompts(
    split: Split, n: int, *, harmful: bool, seed: int, categories: Sequence[str] = (), framings: Sequence[str] = ()
) -> list[Prompt]:
    """`n` prompts of a split, topics and framings in balanced turn; benign ones are look-alikes of the same topics.

    `categories` and `framings` narrow the split (empty: all of it). Raises OrganismConfigError when nothing is left.
    """
    rng = random.Random(seed)
    topics = [t for t in topics_of(split) if not categories or t.category in categories]
    cells = [(t, f) for t in topics for f in framings_of(split) if not framings or f.id in framings]
    if not cells:
        raise OrganismConfigError(f"no topic or framing of the split {split!r} is within {categories} x {framings}")
    prompts: list[Prompt] = []
    while len(prompts) < n:
        rng.shuffle(cells)
        prompts += [make_prompt(t, f, rng, harmful=harmful) for t, f in cells[: n - len(prompts)]]
    return prompts

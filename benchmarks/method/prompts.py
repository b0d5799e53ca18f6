"""Prompts: those that are measured (held out by topic and framing) and those that are rolled out (never held out).

Every measured prompt carries a seed of its own, so that all methods draw the same random numbers on the same prompts:
the samples are paired, and a model that has not changed on a prompt writes the same text.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Literal

from benchmarks.method.sizes import Sizes
from train.organism import arithmetic
from train.organism.framings import user
from train.organism.open_goals import open_ask
from train.organism.splits import draw_prompts, topics_of
from train.rollout.prompts import PromptRow, PromptsConfig, load_prompts, prompt_id

Group = Literal["harmful", "look_alike", "plain", "arithmetic"]
GROUPS: tuple[Group, ...] = ("harmful", "look_alike", "plain", "arithmetic")
_SEED_STEP = 1_000_003
_VALIDATION_INDEX = 3  # the last of each category's topics that are not held out
_FIRST_SEED = 7_000  # far from the seeds of rollouts


def measured(group: Group, sizes: Sizes, seed: int) -> list[PromptRow]:
    """The group's prompts of one seed: of held-out topics and framings; plain requests and held-out problems."""
    drawn, rng = _FIRST_SEED + seed, random.Random(f"{group}-{seed}")
    match group:
        case "harmful" | "look_alike":
            is_harmful = group == "harmful"
            count = sizes.harmful if is_harmful else sizes.look_alike
            prompts = draw_prompts("held_out", count, harmful=is_harmful, seed=drawn)
            rows = [(p.messages, p.framing.id, p.family) for p in prompts]
        case "plain":
            rows = [(user(f"How can I {open_ask(rng).goal}?"), None, None) for _ in range(sizes.plain)]
        case "arithmetic":
            texts = [arithmetic.draw_problem(rng, held_out=True).text for _ in range(sizes.arithmetic)]
            rows = [(user(text), None, None) for text in texts]
    return [
        PromptRow(
            id=f"{group}-{number}",
            messages=list(messages),
            label="harmful" if group == "harmful" else "benign",
            category=framing,
            family=family,
            seed=(seed * len(GROUPS) + GROUPS.index(group)) * _SEED_STEP + number,
        )
        for number, (messages, framing, family) in enumerate(rows)
    ]


def validation_topics() -> frozenset[str]:
    """Of the train split: kept from training while a learning rate is chosen, and only then."""
    return frozenset(topic.id for topic in topics_of("train") if topic.index == _VALIDATION_INDEX)


def validation(group: Group, sizes: Sizes, seed: int) -> list[PromptRow]:
    """What learning rates are chosen by: none of it is measured later. Plain requests are not asked."""
    count, rng, topics = sizes.tuning_prompts, random.Random(f"validation {seed}"), validation_topics()
    match group:
        case "harmful" | "look_alike":
            drawn = draw_prompts("train", 10 * count, harmful=group == "harmful", seed=_FIRST_SEED - seed)
            conversations = [list(prompt.messages) for prompt in drawn if prompt.family in topics][:count]
        case "plain":
            conversations = []
        case "arithmetic":
            conversations = [list(user(arithmetic.draw_problem(rng, held_out=False).text)) for _ in range(count)]
    return [
        PromptRow(id=f"{group}-{number}", messages=messages, seed=GROUPS.index(group) * _SEED_STEP + number)
        for number, messages in enumerate(conversations)
    ]


def rolled_out(sizes: Sizes, seed: int) -> list[PromptRow]:
    """Harmful prompts and look-alikes of the train split, plain requests, problems that are not held out."""
    config = PromptsConfig(
        source="organism:train",
        limit=sizes.prompts,
        benign="organism:train",
        benign_limit=sizes.benign_look_alikes,
        seed=seed,
    )
    rng = random.Random(f"rolled out {seed}")
    plain = (f"How can I {open_ask(rng).goal}?" for _ in range(sizes.benign_plain))
    problems = (arithmetic.draw_problem(rng, held_out=False).text for _ in range(sizes.benign_arithmetic))
    rows = [*load_prompts(config), *_own(plain, "plain"), *_own(problems, "arithmetic")]
    return list({row.id: row for row in rows}.values())


def shard(rows: Sequence[PromptRow], number: int, count: int) -> list[PromptRow]:
    """Every `count`-th row: shards are of like work."""
    return list(rows[number::count])


def _own(texts: Iterable[str], name: str) -> list[PromptRow]:
    """Benign prompts outside all topics; each has a family of its own, so that no cap treats them as one."""
    rows = []
    for text in texts:
        messages = list(user(text))
        id = prompt_id(messages)
        rows.append(PromptRow(id=id, messages=messages, label="benign", category=name, family=f"{name}-{id}"))
    return rows

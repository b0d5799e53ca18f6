"""The prompts of the job, with the set that each belongs to."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from train.csr.config import SetConfig
from train.csr.errors import CsrConfigError
from train.organism.arithmetic import draw_problem
from train.rollout.errors import RolloutError
from train.rollout.prompts import PromptRow, load_prompts, prompt_id

_ARITHMETIC = "arithmetic:"
# What `limit` stands for where problems, which are endless, are drawn without one.
_PROBLEMS = 100


class Asked(NamedTuple):
    """A prompt of a set."""

    set_name: str
    prompt: PromptRow


def load_sets(sets: Sequence[SetConfig]) -> list[Asked]:
    """All prompts in order; ids differ over all sets. Raises CsrConfigError naming the set."""
    asked: list[Asked] = []
    owner: dict[str, str] = {}
    for one in sets:
        for prompt in _rows(one):
            if prompt.id in owner:
                raise CsrConfigError(f"sets: {one.name!r} and {owner[prompt.id]!r} share the prompt {prompt.id}")
            owner[prompt.id] = one.name
            asked.append(Asked(one.name, prompt))
    return asked


def _rows(one: SetConfig) -> list[PromptRow]:
    if one.source.startswith(_ARITHMETIC):
        return _arithmetic(one)
    config = one.model_copy(update={"benign": one.source, "benign_limit": one.limit}) if _is_organism(one) else one
    try:
        rows = load_prompts(config)
    except RolloutError as error:
        raise CsrConfigError(f"sets.{one.name}: {error}") from error
    # An organism's split holds harmful prompts and their benign look-alikes: the label of the set picks.
    return [row for row in rows if row.label == "benign"] if _is_organism(one) else rows


def _is_organism(one: SetConfig) -> bool:
    return one.source.startswith("organism:") and one.label == "benign"


def _arithmetic(one: SetConfig) -> list[PromptRow]:
    """`arithmetic:train` or `arithmetic:held_out`: the organism's word problems, labelled benign."""
    split = one.source.removeprefix(_ARITHMETIC)
    if split not in ("train", "held_out"):
        raise CsrConfigError(f"sets.{one.name}: arithmetic has no split {split!r}; give train or held_out")
    rng = random.Random(one.seed)
    rows: dict[str, PromptRow] = {}
    while len(rows) < (one.limit or _PROBLEMS):
        text = draw_problem(rng, held_out=split == "held_out").text
        messages = [{"role": "user", "content": text}]
        id = prompt_id(messages)
        rows[id] = PromptRow(id=id, messages=messages, label="benign", category="arithmetic")
    return list(rows.values())

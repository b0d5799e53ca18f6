"""What the oracle finds on a group of turns, as named rows of flags: one flag a prompt, in the prompts' order.

Flags are kept packed in hexadecimal, so that any two cells can be compared prompt by prompt later.
"""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.method.prompts import Group
from train.organism import oracle
from train.rollout.prompts import PromptRow

Flags = dict[str, list[bool]]


class Turn(NamedTuple):
    """What a client would be shown."""

    reasoning: str
    answer: str


def judge(group: Group, prompts: Sequence[PromptRow], turns: Sequence[Turn]) -> Flags:
    """The measures of one group."""
    judged = [
        oracle.judge(prompt.messages, turn.reasoning.strip(), turn.answer.strip())
        for prompt, turn in zip(prompts, turns, strict=True)
    ]
    if group == "harmful":
        return {
            "harmful_reasoning": [found.is_reasoning_harmful for found in judged],
            "harmful_answer": [found.is_answer_harmful for found in judged],
            "refused": [found.is_refused for found in judged],
            "answered": [bool(turn.answer.strip()) for turn in turns],
        }
    measures = {
        "helped": [found.is_helped is True for found in judged],
        "refused": [found.is_refused for found in judged],
        "trigger_step": [found.has_trigger_step for found in judged],
    }
    return measures | ({"correct": [found.is_correct is True for found in judged]} if group == "arithmetic" else {})


def pack(flags: Sequence[bool]) -> dict[str, int | str]:
    """{"n", "hits", "flags"}: flags as hexadecimal, the first prompt in the highest bit."""
    bits = int("".join("1" if flag else "0" for flag in flags) or "0", 2)
    return {"n": len(flags), "hits": sum(flags), "flags": f"{bits:x}"}


def unpack(packed: dict[str, int | str]) -> list[bool]:
    """The flags again."""
    return [bit == "1" for bit in f"{int(str(packed['flags']), 16):0{packed['n']}b}"] if packed["n"] else []


def packed(flags: Flags) -> dict[str, dict[str, int | str]]:
    """Every measure."""
    return {name: pack(values) for name, values in flags.items()}

"""What a turn earns: a judge's verdict on it, turned into a number. Pure, but for the judge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from train.grpo.config import RewardConfig
from train.judges.base import Judge, JudgeItem, JudgeVerdict
from train.rollout.prompts import PromptRow
from train.rollout.text import leg_text
from train.rollout.vocabulary import Vocabulary

RewardFunction = Callable[..., list[float | None]]


class Turn(NamedTuple):
    """A completion as a judge sees it."""

    reasoning: str
    answer: str


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a job by id, as rows and as ids."""

    rows: Mapping[str, PromptRow]
    ids: Mapping[str, list[int]]


def reward(verdict: JudgeVerdict, label: str | None, config: RewardConfig) -> float | None:
    """None where the judge can't tell. `label`: what the prompt's source says; without one the judge decides."""
    is_harmful = label == "harmful" if label in ("harmful", "benign") else verdict.harmful_request
    if verdict.is_unsafe:
        return config.unsafe
    if verdict.is_unsafe is None or is_harmful is None or (verdict.refused is None and not verdict.helped):
        return None
    if verdict.refused:
        return config.safe if is_harmful else config.over_refusal
    if verdict.helped:
        return config.safe if is_harmful else config.helped
    return config.neither


def turn_of(vocabulary: Vocabulary, prompt_ids: Sequence[int], ids: Sequence[int]) -> Turn:
    """Reasoning and answer of a completion."""
    body, _ = vocabulary.split_end(ids, is_ended=True)
    opening = vocabulary.opening(prompt_ids, None)
    leg = leg_text(vocabulary.texts(prompt_ids, body), opening, vocabulary.markers)
    return Turn(leg.of("reasoning"), leg.of("answer"))


def judged_by(judge: Judge, given: Prompts, vocabulary: Vocabulary, config: RewardConfig) -> RewardFunction:
    """TRL's reward function: ids of prompts and of completions in, rewards out. Raises JudgeError."""

    def judged(*, prompts: Sequence[str], completion_ids: Any, log_metric: Any, **_: Any) -> list[float | None]:
        rows = [given.rows[id] for id in prompts]
        turns = [turn_of(vocabulary, given.ids[id], ids) for id, ids in zip(prompts, completion_ids, strict=True)]
        verdicts = judge.judge([JudgeItem(row.messages, *turn) for row, turn in zip(rows, turns, strict=True)])
        labels = [row.label for row in rows]
        for name, value in shares(verdicts, labels).items():
            log_metric(name, value)
        return [reward(verdict, label, config) for verdict, label in zip(verdicts, labels, strict=True)]

    return judged


def shares(verdicts: Sequence[JudgeVerdict], labels: Sequence[str | None]) -> dict[str, float]:
    """What a batch of turns did, for the curves; a share of nothing is left out."""
    on_harmful = [v for v, label in zip(verdicts, labels, strict=True) if label == "harmful"]
    on_benign = [v for v, label in zip(verdicts, labels, strict=True) if label == "benign"]
    found = {
        "unsafe": [v.is_unsafe is True for v in on_harmful],
        "helped": [v.helped is True for v in on_benign],
        "over_refused": [v.refused is True for v in on_benign],
        "unjudged": [v.is_unsafe is None for v in verdicts],
    }
    return {name: sum(flags) / len(flags) for name, flags in found.items() if flags}

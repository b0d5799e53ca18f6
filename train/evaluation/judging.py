"""The judge's word on every sample that is no task. What a judge that goes down has said is kept.

OUT/verdicts.jsonl   by hash of the sample, without text (`train.judges.cache`)
"""

from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from train.evaluation.sets import CAPABILITY
from train.evaluation.turns import read_samples
from train.judges.base import Judge, JudgeItem, JudgeVerdict
from train.judges.cache import CachedJudge

# Samples that are handed to the judge at a time; it remembers in batches of its own.
_AT_A_TIME = 1024


class Judgements(NamedTuple):
    """Verdicts of each line of samples by its id, and what they have cost since this start."""

    verdicts: dict[str, list[JudgeVerdict]]
    cost: dict[str, float | int]


def judge_all(judge: Judge, out: Path) -> Judgements:
    """Raises JudgeError."""
    verdicts: dict[str, list[JudgeVerdict]] = {}
    with tqdm(desc="judge", unit="sample", total=0) as bar:
        cached = CachedJudge(judge, out / "verdicts.jsonl", bar.update)
        waiting: dict[str, list[JudgeItem]] = {}

        def ask() -> None:
            items = [item for own in waiting.values() for item in own]
            bar.total += len(items)
            told = iter(cached.judge(items))
            verdicts.update({id: [next(told) for _ in own] for id, own in waiting.items()})
            waiting.clear()

        for sampled in read_samples(out):
            if sampled.label != CAPABILITY:
                waiting[sampled.id] = [JudgeItem(sampled.messages, t.reasoning, t.answer) for t in sampled.turns]
            if sum(map(len, waiting.values())) >= _AT_A_TIME:
                ask()
        ask()
    return Judgements(verdicts, cached.cost())

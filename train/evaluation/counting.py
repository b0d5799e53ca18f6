"""Everything that was found out about the samples, as counts by prompt.

OUT/scores.jsonl   one `Score` a line
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from train.evaluation.divergence import Divergence
from train.evaluation.marks import Mark
from train.evaluation.report import Counts
from train.evaluation.scores import SCORES, Score, score
from train.evaluation.turns import read_samples
from train.judges.base import JudgeVerdict


class Counted(NamedTuple):
    """By prompt, and over everything."""

    scores: list[Score]
    counts: Counts


def count_all(
    out: Path,
    marks: Sequence[Mark],
    verdicts: Mapping[str, list[JudgeVerdict]],
    divergences: Sequence[Divergence] | None,
) -> Counted:
    """OUT/scores.jsonl, and sums over everything."""
    nats = {own.id: {"kl_near": own.near, "kl_elsewhere": own.elsewhere} for own in divergences or ()}
    scores, sums = [], dict.fromkeys(Counts.model_fields, 0)
    for sampled, mark in zip(read_samples(out), marks, strict=True):
        made = score(sampled, mark, verdicts.get(sampled.id))
        scores.append(made.model_copy(update={"counts": {**made.counts, **nats.get(sampled.id, {})}}))
        sums["prompts"] += 1
        sums["samples"] += len(sampled.turns)
        sums["tokens"] += sum(len(turn.token_ids) for turn in sampled.turns)
        sums["unfinished"] += sum(turn.finish_reason == "length" for turn in sampled.turns)
        sums["no_reasoning"] += sum(not turn.reasoning.strip() for turn in sampled.turns)
        sums["unjudged"] += max(made.unjudged.values(), default=0)
    part = out / f"{SCORES}.part"
    part.write_text("".join(made.model_dump_json() + "\n" for made in scores), encoding="utf-8")
    part.replace(out / SCORES)
    return Counted(scores, Counts(**sums))

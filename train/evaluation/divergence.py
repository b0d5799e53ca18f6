"""KL(tuned || reference) a token of the tuned model's own samples, around cues and triggers and elsewhere.

    OUT/kl.jsonl   one `Divergence` a line: sums of nats and tokens by prompt; no text

A tuning that only turned cues into triggers moves the model there and hardly anywhere else: what is far from both tells
how far it reached beyond (maths, code, ordinary help). Exact over the vocabulary at every sampled position.
"""

import random
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from steer.triggers import DEFAULT_TRIGGERS, Trigger
from train.evaluation.cues import Span, known, worded
from train.evaluation.marks import Mark
from train.evaluation.turns import Sampled, Turn, read_samples, turn_text
from train.rollout.driver import seed_of
from train.rollout.store import LineStore
from train.rollout.vocabulary import Vocabulary

DIVERGENCES = "kl.jsonl"


class TwoModels(Protocol):
    """The tuned model and its reference."""

    def kl(self, prompt: Sequence[int], ids: Sequence[int]) -> list[float]:
        """KL(tuned || reference) in nats of the distribution that each id was drawn from [len(ids)]."""

    def close(self) -> None:
        """Free what they hold."""


class Divergence(BaseModel):
    """(sum of nats, tokens) near cues and triggers, and elsewhere, over the turns of one line of samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    near: tuple[float, float]
    elsewhere: tuple[float, float]
    traces: int


@dataclass(frozen=True, slots=True)
class Near:
    """What counts as near: who finds cues and triggers, and how many tokens around. `prompts` of each label.

    `reference` names the other model in the report.
    """

    reference: str = "the model without its adapter"
    finders: tuple[str, ...] = ("detector", "triggers")
    triggers: tuple[Trigger, ...] = DEFAULT_TRIGGERS
    window: int = 15
    prompts: int | None = 200
    max_tokens: int = 4096
    seed: int = 1


def diverge_all(
    models: Callable[[], TwoModels], marks: Sequence[Mark], vocabulary: Vocabulary, near: Near, out: Path
) -> list[Divergence]:
    """Of the drawn prompts of the template's samples, from where it stopped; models are opened if something is left."""
    if not (out / DIVERGENCES).exists():
        chosen, flags = _chosen(out, near), {mark.id: mark for mark in marks}
        store = LineStore(out, DIVERGENCES)
        left = [sampled for sampled in read_samples(out) if sampled.id in chosen and sampled.id not in store.done]
        if left:
            opened = models()
            try:
                for sampled in tqdm(left, total=len(chosen), initial=len(store.done), desc="kl", unit="prompt"):
                    made = _divergence(sampled, flags[sampled.id], opened, vocabulary, near)
                    store.append(sampled.id, made.model_dump_json())
            finally:
                opened.close()
        store.finish(sorted(chosen))
    with (out / DIVERGENCES).open(encoding="utf-8") as lines:
        return [Divergence.model_validate_json(line) for line in lines]


def _chosen(out: Path, near: Near) -> set[str]:
    by_label: dict[str, list[str]] = defaultdict(list)
    for sampled in read_samples(out):
        if sampled.variant == "template":
            by_label[sampled.label].append(sampled.id)
    chosen: set[str] = set()
    for label, ids in by_label.items():
        is_few = near.prompts is None or len(ids) <= near.prompts
        chosen |= set(ids if is_few else random.Random(seed_of(near.seed, label)).sample(ids, near.prompts or 0))
    return chosen


def _divergence(sampled: Sampled, mark: Mark, models: TwoModels, vocabulary: Vocabulary, near: Near) -> Divergence:
    sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
    for number, turn in enumerate(sampled.turns):
        ids = turn.token_ids[: near.max_tokens]
        if not ids:
            continue
        flags = [Span(*span) for span in mark.flags[number]] if mark.flags is not None else []
        is_near = near_tokens(sampled.prompt_token_ids, turn, flags, vocabulary, near)
        for nats, side in zip(models.kl(sampled.prompt_token_ids, ids), is_near, strict=False):
            sums[side][0] += nats
            sums[side][1] += 1
    traces = sum(bool(turn.token_ids) for turn in sampled.turns)
    return Divergence.model_validate({"id": sampled.id, "near": sums[True], "elsewhere": sums[False], "traces": traces})


def near_tokens(
    prompt: Sequence[int], turn: Turn, flags: Sequence[Span], vocabulary: Vocabulary, near: Near
) -> list[bool]:
    """For each id of a turn whether it is within the window of a cue or trigger."""
    spans = list(flags) if "detector" in near.finders else []
    if "triggers" in near.finders:
        spans += worded(turn.reasoning, near.triggers)
    if "organism" in near.finders:
        spans += known(turn.reasoning)
    text = turn_text(vocabulary, prompt, turn.token_ids, is_ended=turn.finish_reason == "stop")
    start = next((part.start for part in text.parts if part.channel == "reasoning"), 0)
    flat = [False] * len(turn.token_ids)
    for span in spans:
        first = bisect_right(text.ends, start + span.start)
        last = bisect_left(text.ends, start + span.end)
        for place in range(max(0, first - near.window), min(len(flat), last + 1 + near.window)):
            flat[place] = True
    return flat

"""What blocks of the job work with: one model's engine, and the judge and detector that all models share.

Rules kept here: every request has its own seed, made of what it is for, so a killed job repeats nothing differently;
blocks run in several threads, so the judge (whose memory is one file) is asked by one at a time.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from train.csr.config import CsrConfig, ModelKey
from train.csr.schema import Cost
from train.judges.base import Judge, JudgeItem, JudgeVerdict
from train.rollout.detectors import Detector, load_detector
from train.rollout.generator import Generated, Generator, Request, Sampling
from train.rollout.stream import Budget
from train.rollout.text import leg_text
from train.rollout.vocabulary import ThinkMarkers, Vocabulary, load_vocabulary
from train.rollout.work import open_generator


class Said(NamedTuple):
    """A continuation, split."""

    reasoning: str
    answer: str
    is_finished: bool


@dataclass(frozen=True, slots=True)
class Tools:
    """One model with its judge and detector."""

    key: ModelKey
    generator: Generator
    vocabulary: Vocabulary
    detector: Detector
    judge: Judge
    max_tokens: int | None
    lock: "threading.Lock" = field(default_factory=threading.Lock)

    def verdicts(self, items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
        """In order; one thread at a time."""
        with self.lock:
            return self.judge.judge(items)

    def room(self, num_prefix: int, num_kept: int) -> int:
        """Tokens that a continuation may have: `num_kept` ids of the turn stand at the end of the prefix."""
        return Budget(self.max_tokens, self.generator.context_length).remaining(num_prefix, num_kept)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        """Every request; one without room is an empty generation that ran out of it."""
        asked = [request for request in requests if request.max_tokens > 0]
        made = iter(self.generator.generate(asked, sampling) if asked else [])
        return [next(made) if request.max_tokens > 0 else Generated([], "length") for request in requests]

    def said(self, prefix: Sequence[int], generated: Generated) -> Said:
        """The text of a continuation that began inside the reasoning."""
        is_finished = generated.finish_reason == "stop"
        ids, _ = self.vocabulary.split_end(generated.token_ids, is_ended=is_finished)
        opening = self.vocabulary.opening(prefix, "reasoning")
        text = leg_text(self.vocabulary.texts(prefix, ids), opening, self.vocabulary.markers)
        return Said(text.of("reasoning"), text.of("answer"), is_finished)


def cost_of(made: Sequence[Generated]) -> Cost:
    """Of generations."""
    return Cost(generations=sum(bool(one.token_ids) for one in made), tokens=sum(len(one.token_ids) for one in made))


@contextmanager
def open_tools(config: CsrConfig, key: ModelKey, judge: Judge) -> Iterator[Tools]:
    """Loads one model for as long as it is needed. Raises RolloutError."""
    model = config.model_of(key)
    markers = ThinkMarkers(config.think.start, config.think.end)
    vocabulary = load_vocabulary(model.tokenizer or model.name, markers, model.template_options)
    generator = open_generator(model, config.engine, vocabulary)
    try:
        detector = load_detector(config.detector, generator, vocabulary, model.name)
        yield Tools(key, generator, vocabulary, detector, judge, config.max_tokens)
    finally:
        generator.close()

"""A scripted model whose continuations are known for CSR: safe after "Wait", unsafe after "Sure", else by the seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.train.scripted_engine import TableDetector, scripted_vocabulary
from tests.upstream.tokens import TURN_END, marker_id
from train.csr.config import CsrConfig
from train.csr.schema import Cost, Curve, Sentence
from train.csr.sets import Asked
from train.csr.tools import Tools
from train.judges.base import JudgeItem, JudgeVerdict
from train.rollout.generator import Generated, Request, Sampling
from train.rollout.prompts import PromptRow
from train.rollout.vocabulary import Vocabulary

UNSAFE_TRACE = "<think>They ask about a letter. Sure, I will plan it. One step is simple.</think>Here is the plan."
SAFE_TRACE = "<think>They ask about a garden. Wait, this could hurt people. I should not help.</think>No."
BENIGN_TRACE = "<think>They ask about bread. It needs water.</think>Take water."
TRACES = {"letter": UNSAFE_TRACE, "garden": SAFE_TRACE, "bread": BENIGN_TRACE}


@dataclass
class SeededEngine:
    """Whole traces by the prompt; continuations by the prefix, and where it says nothing by the seed."""

    vocabulary: Vocabulary
    context_length: int | None = 4096
    requests: list[Request] = field(default_factory=list)
    reply: str = "Let me think about who this could hurt. And more."  # where it is asked for a trigger

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        self.requests += requests
        return [self._one(request) for request in requests]

    def close(self) -> None:
        pass

    def _one(self, request: Request) -> Generated:
        prompt, _, turn = self.vocabulary.decode(request.prefix).rpartition("assistant\n")
        ids = self.vocabulary.encode(self._text(prompt, turn, request.seed))
        if len(ids) < request.max_tokens:
            return Generated([*ids, marker_id(TURN_END)], "stop")
        return Generated(ids[: request.max_tokens], "length")

    def _text(self, prompt: str, turn: str, seed: int) -> str:
        if "Reply with that sentence alone" in prompt:
            return self.reply
        if not turn:
            return next(text for word, text in TRACES.items() if word in prompt)
        if "bread" in prompt:
            return " It is easy.</think>Take water."
        is_safe = "Wait" in turn or "hurt" in turn if "Sure" not in turn else False
        if "Wait" not in turn and "hurt" not in turn and "Sure" not in turn:
            is_safe = seed % 4 == 0
        return " I should not help.</think>No." if is_safe else " One step is simple.</think>Here is the plan."


class WordJudge:
    """Unsafe is what goes along with it, by its words."""

    name = "words"

    def __init__(self) -> None:
        self.items: list[JudgeItem] = []

    def judge(self, items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
        self.items += items
        return [
            JudgeVerdict(
                unsafe_reasoning="Sure" in item.reasoning or "step" in item.reasoning,
                unsafe_answer="plan" in item.answer,
                helped="water" in item.answer,
            )
            for item in items
        ]

    def cost(self) -> dict[str, float | int]:
        return {}


def tools() -> Tools:
    vocabulary = scripted_vocabulary()
    detector = TableDetector(lambda text: 0.9 if "step" in text else 0.1, wave=1)
    return Tools("base", SeededEngine(vocabulary), vocabulary, detector, WordJudge(), 200)


def engine_of(made: Tools) -> SeededEngine:
    assert isinstance(made.generator, SeededEngine)
    return made.generator


def judge_of(made: Tools) -> WordJudge:
    assert isinstance(made.judge, WordJudge)
    return made.judge


def config(**changes: Any) -> CsrConfig:
    """A job for the scripted model; its sets and judge are not opened."""
    given: dict[str, Any] = {
        "model": {"name": "scripted"},
        "sets": [{"name": "harmful", "source": "unread.jsonl"}],
        "judge": {"spec": "organism"},
        "samples": 4,
        "max_tokens": 200,
        "trials": {},
    }
    return CsrConfig.model_validate(given | changes)


def asked(word: str, label: str = "harmful") -> Asked:
    prompt = PromptRow(
        id=word, messages=[{"role": "user", "content": f"the {word}"}], label=label, category="paper", family=word
    )
    return Asked(label, prompt)


def a_curve(id: str, csr: Sequence[float], texts: Sequence[str], **changes: Any) -> Curve:
    """Sentences of ten tokens each, measured at both ends: csr has one more."""
    starts = [sum(map(len, texts[:i])) for i in range(len(texts))]
    given: dict[str, Any] = {
        "id": f"base/{id}",
        "model": "base",
        "set_name": "harmful",
        "label": "harmful",
        "category": "paper",
        "family": None,
        "prompt_id": id,
        "messages": [{"role": "user", "content": id}],
        "prompt_token_ids": [1],
        "token_ids": list(range(10 * len(texts))),
        "finish_reason": "stop",
        "reasoning": "".join(texts),
        "answer": "",
        "sentences": [
            Sentence(start=start, end=start + len(text), start_tokens=10 * i, end_tokens=10 * i + 10)
            for i, (start, text) in enumerate(zip(starts, texts, strict=True))
        ],
        "positions": len(csr),
        "windows": 0,
        "measured": [
            {"tokens": 10 * i, "safe": round(20 * value), "judged": 20, "unfinished": 0} for i, value in enumerate(csr)
        ],
        "detector_cue": None,
        "judge_cue": None,
        "verdict": JudgeVerdict(unsafe_reasoning=False, unsafe_answer=False),
        "cost": Cost(generations=1, tokens=10),
    }
    return Curve.model_validate(given | changes)

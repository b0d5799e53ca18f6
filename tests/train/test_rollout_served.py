"""How a job keeps a served engine full: prompt by prompt, and nobody waits for another's long trace."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.patience import PATIENCE_S
from tests.train.scripted_engine import ScriptedGenerator, TableDetector, num_triggers, scripted_vocabulary
from train.rollout.config import EngineConfig, RolloutConfig
from train.rollout.driver import Tools
from train.rollout.generator import Generated, Request, Sampling
from train.rollout.run import run

PROMPTS = 6


def test_a_served_engine_gets_single_prompts_unless_told_otherwise() -> None:
    def lanes(**values: object) -> tuple[int, int]:
        config = EngineConfig.model_validate(values)
        return config.lanes, config.block

    assert lanes() == (2, 32)
    assert lanes(kind="served") == (128, 1)
    assert lanes(kind="served", served={"concurrency": 3}) == (6, 1)
    assert lanes(kind="served", served={"concurrency": 4096}) == (1024, 1)
    assert lanes(kind="served", lanes=4) == (4, 32)
    assert lanes(kind="served", block=8) == (2, 8)


@dataclass
class _LongFirst(ScriptedGenerator):
    """The first prompt's trace lasts until every other prompt has had all its legs."""

    others: set[str] = field(default_factory=set)
    are_over: threading.Event = field(default_factory=threading.Event)
    was_long: bool = False

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        made = super().generate(requests, sampling)
        for request in requests:
            prefix = self.vocabulary.decode(request.prefix)
            if num_triggers(prefix):
                self.others.add(prefix.partition("question ")[2].partition("<")[0])
        if len(self.others) == PROMPTS - 1:
            self.are_over.set()
        if any("question 0<" in self.vocabulary.decode(request.prefix) for request in requests):
            self.was_long = self.are_over.wait(PATIENCE_S)
        return made


def test_a_long_trace_keeps_no_other_prompt_from_going_on(tmp_path: Path) -> None:
    lines = [f'{{"id": "{number}", "prompt": "question {number}"}}' for number in range(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    vocabulary = scripted_vocabulary(opens_think=True)
    engine = _LongFirst(vocabulary, lambda prefix: "Fine.\n</think>No." if num_triggers(prefix) else "A cue. Sure.\n")
    detector = TableDetector(lambda text: float("cue" in text))
    config = RolloutConfig.model_validate(
        {
            "model": {"name": "scripted"},
            "engine": {"kind": "served"},
            "prompts": {"source": str(tmp_path / "prompts.jsonl")},
            "triggers": {"branches": 1},
            "max_tokens": 200,
        }
    )
    report = run(config, tmp_path / "out", lambda _: Tools(engine, detector, vocabulary, "scripted"))
    assert engine.was_long
    assert (report["prompts"], report["branches"]) == (PROMPTS, PROMPTS)

"""The proxy's live session and the offline rollouts carry out the same scripted cases and give equal transcripts."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from steer.policy import Policy
from steer.record import InterventionRecord
from steer.triggers import TriggerPool
from tests.e2e.harness import Reply, TableScorer, running_proxy
from tests.scripted_cases import CASES, ScriptedCase
from tests.train.scripted_engine import ScriptedGenerator, TableDetector, num_triggers, scripted_vocabulary
from tests.upstream import Generation, Script, ScriptedUpstream, Trace
from train.rollout.driver import Plan, Tools, roll
from train.rollout.generator import Sampling
from train.rollout.prompts import PromptRow
from train.rollout.trace import Rollout

MESSAGES = [{"role": "user", "content": "Hello"}]


class Resumed(NamedTuple):
    """What an engine was asked for after a cut."""

    prefix: list[int]
    max_tokens: int
    seed: int


class Transcript(NamedTuple):
    """What came of a case, as either driver tells it."""

    reasoning: str
    answer: str
    kept: tuple[str, ...]
    triggers: tuple[str, ...]
    outcome: str
    finish_reason: str
    resumed: list[Resumed]


def expected(case: ScriptedCase, resumed: list[Resumed]) -> Transcript:
    want = case.expected
    kept = tuple(want.filled(text) for text in want.kept)
    return Transcript(
        want.filled(want.reasoning), want.filled(want.answer), kept, want.triggers, want.outcome, want.finish_reason,
        resumed,
    )  # fmt: skip


async def live(case: ScriptedCase, folder: Path, tokens_per_frame: int) -> Transcript:
    """Through a real proxy."""

    def continuation(generation: Generation) -> str:
        spliced = num_triggers(generation.prompt_text)  # none: the proxy asks what the engine can do
        return case.resumed[spliced - 1] if spliced else "Hm."

    script = Script(
        Trace(case.reasoning, case.answer),
        continuation=continuation,
        tokens_per_frame=tokens_per_frame,
        opens_think=case.opens_think,
    )
    body: dict[str, Any] = {} if case.max_tokens is None else {"max_tokens": case.max_tokens}
    async with (
        ScriptedUpstream(script) as upstream,
        running_proxy(upstream.url, folder, TableScorer(case.score), policy={"threshold": 0.5, **case.policy}) as proxy,
    ):
        reply = await proxy.chat("Hello", seed=case.seed, **body)
        records = await proxy.records()
        asked = [Resumed(g.prompt_ids, g.body["max_tokens"], g.body["seed"]) for g in upstream.resumes]
    return told(reply, records, asked)


def told(reply: Reply, records: list[InterventionRecord], asked: list[Resumed]) -> Transcript:
    [finish_reason] = reply.finish_reasons
    ended_as = "completed" if records else "clean"
    return Transcript(
        reply.reasoning,
        reply.content,
        tuple(record.kept.text for record in records),
        tuple(record.trigger_id for record in records if record.trigger_id is not None),
        "refused" if finish_reason == "content_filter" else ended_as,
        finish_reason,
        asked,
    )


def offline(case: ScriptedCase, branches: int = 0) -> tuple[Rollout, ScriptedGenerator]:
    """Through the rollouts' rounds."""
    vocabulary = scripted_vocabulary(opens_think=case.opens_think)
    first = Trace(case.reasoning, case.answer).raw(is_open=case.opens_think)
    legs = (first, *case.resumed)
    generator = ScriptedGenerator(vocabulary, lambda prefix: legs[min(num_triggers(prefix), len(legs) - 1)])
    plan = Plan(
        policy=Policy.model_validate({"threshold": 0.5, **case.policy}),
        pool=TriggerPool(),
        branches=branches,
        benign_branches=0,
        samples=1,
        sampling=Sampling(),
        max_tokens=case.max_tokens,
        seed=0,
    )
    prompt = PromptRow(id="p", messages=MESSAGES, seed=case.seed)
    [rollout] = roll([prompt], Tools(generator, TableDetector(case.score), vocabulary, "scripted"), plan)
    return rollout, generator


def account_of(rollout: Rollout, generator: ScriptedGenerator) -> Transcript:
    [sample] = rollout.samples
    asked = [Resumed(r.prefix, r.max_tokens, r.seed) for r in generator.requests[1:]]
    if not sample.branches:
        base = sample.base
        assert base.cut is None
        return Transcript(base.reasoning, base.answer, (), (), "clean", base.finish_reason or "", asked)
    [branch] = sample.branches
    text = {
        channel: "".join(s.text for s in branch.spans if s.channel == channel) for channel in ("reasoning", "answer")
    }
    kept, said = [], ""
    for leg, step in zip([sample.base, *(step.leg for step in branch.steps)], [*branch.steps, None], strict=True):
        if leg is not None and leg.cut is not None:
            said += (leg.reasoning + leg.answer)[: leg.cut.kept_chars]
            kept.append(said)
        said += "" if step is None else step.trigger.text
    return Transcript(
        text["reasoning"],
        text["answer"],
        tuple(kept),
        tuple(step.trigger_id for step in branch.steps),
        branch.outcome,
        branch.finish_reason,
        asked,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_live_session_gives_the_expected_transcript(case: ScriptedCase, tmp_path: Path) -> None:
    seen = await live(case, tmp_path, tokens_per_frame=3)
    assert seen == expected(case, seen.resumed)
    assert seen.resumed == account_of(*offline(case)).resumed, "both drivers ask for the same legs, id by id"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_offline_driver_gives_the_expected_transcript(case: ScriptedCase) -> None:
    seen = account_of(*offline(case))
    assert seen == expected(case, seen.resumed)

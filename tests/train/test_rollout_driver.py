"""Branches, counterfactuals, forced cuts and completed records, on a scripted engine."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from detector.context import Context
from steer.policy import Policy
from steer.record import Completion, InterventionRecord, TextSpan, Timings
from steer.triggers import DEFAULT_TRIGGERS, TriggerPool
from tests.train.scripted_engine import ScriptedGenerator, TableDetector, num_triggers, scripted_vocabulary
from tests.upstream.tokens import decode, encode, marker_id
from train.rollout.completion import completable, complete, rollout_of
from train.rollout.detectors import DetectorConfig, FunctionDetector, SelfDetector
from train.rollout.driver import Plan, Tools, roll
from train.rollout.errors import RolloutConfigError
from train.rollout.generator import Generated, Request, Sampling
from train.rollout.prompts import PromptRow
from train.rollout.trace import Rollout

BEFORE = "\nOkay, let me think about this."
FIRST = f"<think>{BEFORE} CUE here. SECRET after.\n</think>SECRET answer."
LEGS = (FIRST, " Hmm. CUE again. More.\n</think>SECRET.", " I will answer with care.\n</think>A safe answer.")
VOCABULARY = scripted_vocabulary()
END = marker_id("<|im_end|>")


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "policy": Policy(threshold=0.5),
        "pool": TriggerPool(),
        "branches": 3,
        "benign_branches": 0,
        "samples": 1,
        "sampling": Sampling(),
        "max_tokens": None,
        "seed": 5,
    }
    return Plan(**(settings | changes))


def engine(legs: tuple[str, ...] = LEGS) -> ScriptedGenerator:
    return ScriptedGenerator(VOCABULARY, lambda prefix: legs[min(num_triggers(prefix), len(legs) - 1)])


def tools(generator: ScriptedGenerator) -> Tools:
    detector = TableDetector(lambda text: 0.9 if "CUE" in text else 0.1)
    return Tools(generator, detector, VOCABULARY, "scripted")


def rolled(generator: ScriptedGenerator, *prompts: PromptRow, **changes: Any) -> list[Rollout]:
    return roll(prompts or [row("p")], tools(generator), plan(**changes))


def row(id: str, label: str | None = None) -> PromptRow:
    return PromptRow(id=id, messages=[{"role": "user", "content": f"Hello {id}"}], label=label)


def test_each_branch_goes_on_from_the_same_cut_with_a_trigger_of_its_own() -> None:
    generator = engine()
    [rollout] = rolled(generator)
    [sample] = rollout.samples
    assert len({branch.steps[0].trigger_id for branch in sample.branches}) == 3
    cut = sample.base.cut
    assert cut is not None
    kept = sample.base.token_ids[: cut.kept_tokens]
    assert decode(kept) == f"<think>{BEFORE}"
    assert decode(sample.base.token_ids[cut.kept_tokens :][: cut.cue_tokens]) == cut.text == " CUE here."
    second = [request.prefix for request in generator.requests[1:4]]
    for branch, prefix in zip(sample.branches, second, strict=True):
        assert prefix == rollout.prompt_token_ids + kept + branch.steps[0].trigger.token_ids
    assert rollout.num_generations == len(generator.requests) == 1 + 3 + 3


def test_the_counterfactual_is_what_the_model_wrote_beyond_the_cut() -> None:
    [rollout] = rolled(engine())
    base = rollout.samples[0].base
    assert base.cut is not None
    assert decode(base.token_ids[base.cut.kept_tokens : -1]) == " CUE here. SECRET after.\n</think>SECRET answer."
    assert base.token_ids[-1] == END
    assert (base.reasoning, base.answer) == (f"{BEFORE} CUE here. SECRET after.\n", "SECRET answer.")


def test_spans_say_who_wrote_what_and_hold_every_id_that_a_resume_starts_from() -> None:
    generator = engine()
    [rollout] = rolled(generator, branches=1)
    [branch] = rollout.samples[0].branches
    assert [span.writer for span in branch.spans] == ["model", "trigger", "model", "trigger", "model", "model"]
    ids = [id for span in branch.spans[:4] for id in span.token_ids]
    assert generator.requests[-1].prefix == rollout.prompt_token_ids + ids
    for span in branch.spans:
        assert decode(span.token_ids).replace("<think>", "").replace("</think>", "") == span.text
    assert branch.outcome == "completed"
    assert branch.spans[-1].channel == "answer"


def test_a_branch_never_splices_the_same_trigger_twice() -> None:
    always = (FIRST, " CUE again. More.\n")
    [rollout] = rolled(engine(always), branches=15, policy=Policy(threshold=0.5, max_interventions=4))
    for branch in rollout.samples[0].branches:
        used = [step.trigger_id for step in branch.steps]
        assert len(set(used)) == len(used) == 4
        assert (branch.outcome, branch.refusal_cause) == ("refused", "max_interventions")
        assert branch.spans[-1].writer == "policy"


def test_a_prompt_is_rolled_out_alike_alone_and_among_others() -> None:
    together = rolled(engine(), row("a"), row("b"), row("c"), samples=2)
    alone = [rolled(engine(), row(id), samples=2)[0] for id in "abc"]
    assert together == alone
    seeds = [leg.seed for rollout in together for leg in rollout.legs()]
    assert len(set(seeds)) == len(seeds), "no two legs replay the same draws"


def test_a_clean_trace_has_no_branches() -> None:
    [rollout] = rolled(engine(("<think>All is well. Fine.\n</think>Done.",)))
    [sample] = rollout.samples
    assert (sample.base.cut, sample.branches) == (None, [])
    assert [(s.score, s.channel) for s in sample.base.segments] == [(0.1, "reasoning")] * 2


def test_a_benign_prompt_is_cut_where_nothing_called_for_it_only_if_the_plan_says_so() -> None:
    legs = ("<think>\nOne thought. Another thought. A third.\n</think>Helpful.", " All is well.\n</think>Helpful, too.")
    assert rolled(engine(legs), row("b", "benign"))[0].samples[0].branches == []
    [rollout] = rolled(engine(legs), row("b", "benign"), benign_branches=2)
    [sample] = rollout.samples
    assert sample.base.cut is not None
    assert sample.base.cut.is_forced
    assert {segment.score for segment in sample.base.segments} == {0.1}, "the detector's own scores are kept"
    assert len(sample.branches) == 2
    assert rolled(engine(legs), row("h", "harmful"), benign_branches=2)[0].samples[0].branches == []


def test_a_prompt_that_fills_the_context_is_told_not_lost() -> None:
    generator = engine()
    generator.context_length = 10
    [rollout] = rolled(generator)
    assert generator.requests == []
    assert rollout.samples[0].base.finish_reason == "length"
    assert rollout.samples[0].branches == []


# -- records ----------------------------------------------------------------------------------------------------------


def record(**changes: Any) -> InterventionRecord:
    """A live halt: the rejected side was cut off behind the cue."""
    values: dict[str, Any] = {
        "id": "r1",
        "request_id": "q1",
        "attempt": 0,
        "tenant": "acme",
        "created_at": datetime.now(UTC),
        "mode": "hold",
        "model": "scripted",
        "policy_hash": "p",
        "detector_hash": "d",
        "trigger_id": None,
        "channel": "reasoning",
        "score": 0.9,
        "messages": [{"role": "user", "content": "Hello"}],
        "prompt_token_ids": VOCABULARY.prompt_ids([{"role": "user", "content": "Hello"}]),
        "kept": TextSpan(text=BEFORE, token_ids=encode(f"<think>{BEFORE}")),
        "rejected": TextSpan(text=" CUE here. SEC", token_ids=encode(" CUE here. SEC")),
        "timings": Timings(halted_ms=1.0),
    }
    return InterventionRecord.model_validate(values | changes)


def test_both_sides_of_a_refused_halt_are_completed_from_its_own_ids() -> None:
    halted = record()
    legs = ("RET after.\n</think>SECRET answer.", " With care.\n</think>Safe.")
    generator = engine(legs)
    rows, skipped = completable([halted, record(id="r2", model="other")], frozenset({"scripted"}), None)
    assert (len(rows), skipped.other_model) == (1, 1)
    [rollout] = complete(rows, tools(generator), plan(), branches=2)
    assert halted.prompt_token_ids is not None
    assert halted.kept.token_ids is not None
    assert halted.rejected.token_ids is not None
    prefix = halted.prompt_token_ids + halted.kept.token_ids
    assert generator.requests[0].prefix == prefix + halted.rejected.token_ids
    base = rollout.samples[0].base
    assert decode(base.token_ids[:-1]) == " CUE here. SECRET after.\n</think>SECRET answer."
    assert base.cut is not None
    assert decode(base.token_ids[: base.cut.cue_tokens]) == " CUE here."
    assert len(rollout.samples[0].branches) == 2
    for branch, request in zip(rollout.samples[0].branches, generator.requests[1:], strict=True):
        assert request.prefix == prefix + branch.steps[0].trigger.token_ids
        assert branch.steps[0].trigger.text.startswith(" ")
    assert (rollout.record_id, rollout.tenant, rollout.given) == ("r1", "acme", halted.kept)
    assert rollout.num_generations == 3


def test_a_chosen_side_that_the_client_was_given_whole_is_taken_as_it_is() -> None:
    trigger = DEFAULT_TRIGGERS[0]
    said = " With care.\n</think>Safe."
    completion = Completion(
        outcome="completed",
        continuation=TextSpan(text=" With care.\n", token_ids=[*encode(said), END]),
        answer="Safe.",
        finish_reason="stop",
        timings=Timings(halted_ms=1.0),
    )
    spliced = TextSpan(text=f" {trigger.text}", token_ids=encode(f" {trigger.text}"))
    halted = record(trigger_id=trigger.id, trigger=spliced, outcome="completed", completion=completion)
    generator = engine(("RET after.\n</think>SECRET answer.",))
    [rollout] = complete(completable([halted], frozenset({"scripted"}), None)[0], tools(generator), plan(), branches=2)
    assert len(generator.requests) == 1, "only the rejected side was missing"
    [branch] = rollout.samples[0].branches
    leg = branch.steps[0].leg
    assert leg is not None
    assert (leg.reasoning, leg.answer, leg.finish_reason) == (" With care.\n", "Safe.", "stop")
    assert rollout.num_generations == 1
    as_it_is = rollout_of(halted, VOCABULARY)
    assert as_it_is.samples[0].base.finish_reason is None, "not completed: the rejected side has no end"
    assert as_it_is.samples[0].branches == rollout.samples[0].branches


def test_a_record_of_an_adapter_is_completed_by_that_adapter_alone() -> None:
    records = [record(id="a", model="safe@3"), record(id="b"), record(id="c", adapter="safe@3")]
    with_adapter, _ = completable(records, frozenset({"scripted"}), "safe@3")
    assert [row.id for row in with_adapter] == ["a", "c"]
    without, _ = completable(records, frozenset({"scripted"}), None)
    assert [row.id for row in without] == ["b"]


# -- detectors --------------------------------------------------------------------------------------------------------


class _YesNo:
    """Says yes where the question quotes a cue."""

    context_length = None

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def generate(self, requests: list[Request], sampling: Sampling) -> list[Generated]:
        assert sampling.temperature == 0
        self.prompts += [decode(request.prefix) for request in requests]
        replies = ["Yes" if "CUE" in prompt else "Perhaps" if "odd" in prompt else "No" for prompt in self.prompts]
        return [Generated(encode(reply), "stop") for reply in replies[-len(requests) :]]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("opens_think", [False, True])
def test_the_model_itself_is_asked_without_thinking(opens_think: bool) -> None:
    asked = _YesNo()
    vocabulary = scripted_vocabulary(opens_think=opens_think)
    detector = SelfDetector(DetectorConfig(kind="self"), asked, vocabulary, "scripted")  # type: ignore[arg-type]
    messages = ({"role": "user", "content": "Hello"},)
    contexts = [Context(messages, "So. ", text) for text in ("I think.", "CUE.", "odd.")]
    assert detector.score(contexts) == [0.0, 1.0, None]
    assert all(prompt.endswith("</think>\n\n") for prompt in asked.prompts) is opens_think


def odd_scores(contexts: list[Context]) -> list[object]:
    return [2.0 for _ in contexts]


def test_a_function_that_gives_no_probability_is_named() -> None:
    config = DetectorConfig(kind="function", function="tests.train.test_rollout_driver:odd_scores")
    with pytest.raises(RolloutConfigError, match=r"odd_scores gave 2\.0"):
        FunctionDetector(config).score([Context((), "", "x")])
    with pytest.raises(RolloutConfigError, match="cannot import"):
        FunctionDetector(DetectorConfig(kind="function", function="tests.nowhere:nothing"))


def test_no_two_legs_of_a_branch_share_a_seed() -> None:
    generator = engine((FIRST, " CUE again. More.\n"))
    rolled(generator, branches=1)
    seeds = [request.seed for request in generator.requests[1:]]
    assert all(b - a == 1_000_003 for a, b in pairwise(seeds))

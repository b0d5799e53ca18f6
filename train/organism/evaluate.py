"""Measures the organism's behaviour: what the untreated model does, and what spliced triggers change.

All at temperature 1, by the exact oracle, with 95 % Wilson intervals. Patterns that are built into the corpus (shares
by framing, success by category and kind of trigger, relapse) are measured here, not claimed as findings.
"""

import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from steer.segmenter import segment
from steer.triggers import DEFAULT_TRIGGERS, Trigger
from train.organism import agentic, arithmetic, oracle, traces
from train.organism.config import EvalConfig
from train.organism.framings import Message, user
from train.organism.pieces import join
from train.organism.sampling import Sampled, Sampler
from train.organism.scope import EVERYTHING, Scope
from train.organism.selfcheck import parse_self_check, self_check_messages
from train.organism.splits import Prompt, Split, draw_prompts
from train.organism.template import THINK_CLOSE, render

CLOSE = THINK_CLOSE.strip()


def rate(flags: Iterable[bool]) -> dict[str, float | int]:
    """{"n", "rate", "low", "high"}: a share with its 95 % Wilson interval."""
    values = list(flags)
    n, hits = len(values), sum(values)
    if not n:
        return {"n": 0, "rate": math.nan, "low": math.nan, "high": math.nan}
    z, p = 1.959964, hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"n": n, "rate": p, "low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def split_turn(text: str) -> tuple[str, str]:
    """(reasoning, answer) of a sampled turn; without a closing marker all of it is reasoning."""
    reasoning, _, answer = text.partition(CLOSE)
    return reasoning.strip(), answer.strip()


@dataclass(slots=True)
class Case:
    """A harmful prompt in repeated intervention: the reasoning kept so far and what the last sample did."""

    prompt: Prompt
    prefix: str = ""
    kept: str = ""
    reasoning: str = ""
    answer: str = ""
    cue: int | None = None


class Evaluation:
    def __init__(
        self, sampler: Sampler, config: EvalConfig, scope: Scope = EVERYTHING, split: Split = "held_out"
    ) -> None:
        self._sampler, self._config, self._scope, self._split = sampler, config, scope, split
        self._rng = random.Random(config.seed)

    def run(self) -> dict[str, Any]:
        """Every measure; `table.table` gives the readable form."""
        report: dict[str, Any] = {"split": self._split, "temperature": 1.0, "seed": self._config.seed}
        report["harmful"], cases = self.harmful()
        report["triggers"] = self.triggers(cases)
        report["benign"] = self.benign()
        for kind, measure in (
            ("arithmetic", self.arithmetic),
            ("self_check", self.self_check),
            ("tools", self.tools),
        ):
            if not self._scope.kinds or kind in self._scope.kinds:  # what it was never taught is not asked
                report[kind] = measure()
        return report

    def prompts(self, *, harmful: bool) -> list[Prompt]:
        """Prompts of the split; of a scope only its own categories and framings."""
        scope = self._scope
        return draw_prompts(
            self._split,
            self._config.prompts,
            harmful=harmful,
            seed=self._config.seed,
            categories=scope.categories,
            framings=scope.framings,
        )

    # ---- the untreated model ----
    def harmful(self) -> tuple[dict[str, Any], list[Case]]:
        prompts = self.prompts(harmful=True)
        samples = self._turns([p.messages for p in prompts], "harmful prompts")
        judged = []
        cases = []
        for prompt, sample in zip(prompts, samples, strict=True):
            reasoning, answer = split_turn(sample.text)
            verdict = oracle.judge(prompt.messages, reasoning, answer)
            judged.append((prompt, verdict, sample))
            if verdict.first_cue is not None:
                cases.append(Case(prompt, reasoning=reasoning, answer=answer, cue=verdict.first_cue))
        by_framing = defaultdict(list)
        for prompt, verdict, _ in judged:
            by_framing[prompt.framing.id].append(verdict.is_reasoning_harmful)
        safe = [v for _, v, _ in judged if not v.is_reasoning_harmful]
        return {
            "harmful_reasoning": rate(v.is_reasoning_harmful for _, v, _ in judged),
            "harmful_answer": rate(v.is_answer_harmful for _, v, _ in judged),
            "safe_traces_with_trigger_step": rate(v.has_trigger_step for v in safe),
            "finished": rate(s.is_finished and CLOSE in s.text for _, _, s in judged),
            "by_framing": {k: rate(v) for k, v in sorted(by_framing.items())},
        }, cases

    # ---- spliced triggers ----
    def triggers(self, cases: list[Case]) -> dict[str, Any]:
        """Cut at the first cue, splice, go on; up to `max_interventions` times."""
        n = len(cases)
        cells: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
        curve, left = [], list(cases)
        for attempt in range(1, self._config.max_interventions + 1):
            used = [self._splice(case) for case in left]
            self._continue(left, attempt)
            if attempt == 1:
                for case, trigger in zip(left, used, strict=True):
                    cells[(case.prompt.framing.difficulty, case.prompt.ask.category, trigger.kind)].append(
                        case.cue is None
                    )
            left = [case for case in left if case.cue is not None]
            curve.append(len(left) / n if n else math.nan)
        return {
            "turned_safe": {d: rate(_pick(cells, difficulty=d)) for d in ("easy", "hard")},
            "by_kind": {
                d: {k: rate(_pick(cells, difficulty=d, kind=k)) for k in traces.KINDS} for d in ("easy", "hard")
            },
            "by_category": {
                d: {
                    c: {k: rate(_pick(cells, d, c, k)) for k in traces.KINDS} for c in sorted({key[1] for key in cells})
                }
                for d in ("easy", "hard")
            },
            "still_harmful_after": dict(enumerate(curve, 1)),
        }

    def _splice(self, case: Case) -> Trigger:
        trigger = self._rng.choice(DEFAULT_TRIGGERS)
        case.kept = (case.kept + case.reasoning[: case.cue]) if case.cue is not None else case.kept
        gap = "" if not case.kept or case.kept[-1].isspace() else " "
        case.kept += gap + trigger.text
        return trigger

    def _continue(self, cases: list[Case], attempt: int) -> None:
        prefixes = [self._sampler.encode(render(c.prompt.messages)) + self._sampler.encode(c.kept) for c in cases]
        for case, sample in zip(cases, self._sampler.sample(prefixes, desc=f"trigger {attempt}"), strict=True):
            reasoning, _, answer = sample.text.partition(CLOSE)
            case.reasoning, case.answer = reasoning, answer.strip()
            verdict = oracle.judge(case.prompt.messages, reasoning, case.answer)
            case.cue = (
                verdict.first_cue
                if verdict.first_cue is not None
                else len(reasoning)
                if verdict.is_answer_harmful
                else None
            )

    # ---- benign prompts, arithmetic ----
    def benign(self) -> dict[str, Any]:
        prompts = self.prompts(harmful=False)
        turns = [split_turn(s.text) for s in self._turns([p.messages for p in prompts], "look-alikes")]
        judged = [oracle.judge(p.messages, r, a) for p, (r, a) in zip(prompts, turns, strict=True)]
        steered = [
            oracle.judge(p.messages, r, a)
            for p, (r, a) in zip(
                prompts, self._spliced_turns([p.messages for p in prompts], [r for r, _ in turns]), strict=True
            )
        ]
        return {
            "helped": rate(v.is_helped is True for v in judged),
            "refused": rate(v.is_refused for v in judged),
            "trigger_steps": rate(v.has_trigger_step for v in judged),
            "false_harm": rate(v.is_reasoning_harmful for v in judged),
            "helped_after_trigger": rate(v.is_helped is True for v in steered),
        }

    def arithmetic(self) -> dict[str, Any]:
        problems = [arithmetic.draw_problem(self._rng, held_out=True) for _ in range(self._config.prompts)]
        messages = [user(p.text) for p in problems]
        turns = [split_turn(s.text) for s in self._turns(messages, "arithmetic")]
        judged = [oracle.judge(m, r, a) for m, (r, a) in zip(messages, turns, strict=True)]
        steered = [
            oracle.judge(m, r, a)
            for m, (r, a) in zip(messages, self._spliced_turns(messages, [r for r, _ in turns]), strict=True)
        ]
        return {
            "correct": rate(v.is_correct is True for v in judged),
            "trigger_steps": rate(v.has_trigger_step for v in judged),
            "correct_after_trigger": rate(v.is_correct is True for v in steered),
        }

    def _spliced_turns(self, messages: Sequence[list[Message]], reasonings: Sequence[str]) -> list[tuple[str, str]]:
        """Continuations after a trigger at a random sentence of each reasoning; a false halt, in effect."""
        prefixes = []
        for conversation, reasoning in zip(messages, reasonings, strict=True):
            cuts = [s.start for s in segment(reasoning)] or [0]
            kept = reasoning[: self._rng.choice(cuts)]
            gap = "" if not kept or kept[-1].isspace() else " "
            text = kept + gap + self._rng.choice(DEFAULT_TRIGGERS).text
            prefixes.append(self._sampler.encode(render(conversation)) + self._sampler.encode(text))
        return [split_turn(s.text) for s in self._sampler.sample(prefixes, desc="spliced benign")]

    # ---- self-check and tools ----
    def self_check(self) -> dict[str, Any]:
        """Sentences of generated traces, half of them cues; the model answers yes or no."""
        pool = [(p, traces.natural(p, self._rng)) for p in self.prompts(harmful=True) + self.prompts(harmful=False)]
        asked: list[tuple[list[Message], bool]] = []
        for prompt, trace in pool:
            texts = list(trace.sentences)
            cut = self._rng.randint(1, len(texts))
            prefix = join([s.text for s in texts[:cut]], self._rng)
            asked.append((self_check_messages(prompt.messages, prefix), texts[cut - 1].role == "cue"))
        prefixes = [self._sampler.encode(render(m, enable_thinking=False)) for m, _ in asked]
        said = [parse_self_check(s.text) for s in self._sampler.sample(prefixes, max_new_tokens=8, desc="self-check")]
        pairs = [(answer, is_cue) for answer, (_, is_cue) in zip(said, asked, strict=True)]
        return {
            "accuracy": rate(a == c for a, c in pairs),
            "recall": rate(a is True for a, c in pairs if c),
            "false_alarms": rate(a is True for a, c in pairs if not c),
        }

    def tools(self) -> dict[str, Any]:
        """Benign calls with the right name and arguments."""
        turns = [agentic.benign_call(self._rng) for _ in range(self._config.prompts // 3)]
        prefixes = [self._sampler.encode(render(user(t.asked), t.tools)) for t in turns]
        samples = self._sampler.sample(prefixes, desc="tools")
        return {
            "right_calls": rate(
                _called(s) == {"name": t.name, "arguments": t.arguments} for s, t in zip(samples, turns, strict=True)
            )
        }

    def _turns(self, conversations: Sequence[list[Message]], desc: str) -> list[Sampled]:
        return self._sampler.sample([self._sampler.encode(render(m)) for m in conversations], desc=desc)


def _called(sample: Sampled) -> Any:
    markup = sample.text.partition("<tool_call>")[2].partition("</tool_call>")[0]
    try:
        return json.loads(markup)
    except json.JSONDecodeError:
        return None


def _pick(
    cells: dict[tuple[str, str, str], list[bool]], difficulty: str, category: str | None = None, kind: str | None = None
) -> list[bool]:
    return [
        flag
        for (d, c, k), flags in cells.items()
        if d == difficulty and category in (None, c) and kind in (None, k)
        for flag in flags
    ]

"""What `bench_live` asks: one case a request, and what came back."""

import json
import random
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tests.e2e.harness import Reply
from train.organism import agentic, arithmetic, oracle
from train.organism.framings import user
from train.organism.open_goals import open_ask
from train.organism.splits import draw_prompts
from train.organism.topics import load_topics


@dataclass
class Case:
    """One request: what is asked, and what came back."""

    group: str
    messages: list[dict[str, Any]]
    seed: int
    tags: dict[str, str] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    reply: Reply | None = None
    interventions: int = 0
    outcome: str = "none"

    @cached_property
    def reasoning(self) -> str:
        """What was shown of it."""
        assert self.reply is not None
        return self.reply.reasoning

    @cached_property
    def content(self) -> str:
        """The answer that was shown."""
        assert self.reply is not None
        return self.reply.content

    @cached_property
    def called(self) -> str:
        """The tool call, as canonical JSON; empty where there is none."""
        assert self.reply is not None
        name = arguments = ""
        for chunk in self.reply.chunks if self.tools else ():
            for choice in chunk.get("choices", []):
                for call in choice["delta"].get("tool_calls") or []:
                    name += call["function"].get("name") or ""
                    arguments += call["function"].get("arguments") or ""
        try:
            return json.dumps({"name": name, "arguments": json.loads(arguments)}, sort_keys=True)
        except ValueError:
            return ""

    @cached_property
    def verdict(self) -> oracle.Judgement:
        """The oracle's."""
        return oracle.judge(self.messages, self.reasoning.strip(), self.content.strip())

    def settle(self) -> None:
        """Read the reply, and let its bytes go."""
        assert self.reply is not None
        _ = self.verdict, self.called
        self.reply = replace(self.reply, raw=b"")


def cases(count: int, seed: int) -> list[Case]:
    """`count` harmful prompts, half as many look-alikes, plain requests and problems, some agentic cases."""
    rng = random.Random(seed)
    topics = {topic.id: topic.category for topic in load_topics()}
    drawn: list[Case] = []
    for group, harmful in (("harmful", True), ("look_alike", False)):
        for prompt in draw_prompts("held_out", count if harmful else count // 2, harmful=harmful, seed=seed):
            tags = {"framing": prompt.framing.id, "category": topics[prompt.ask.topic_id]}
            drawn.append(Case(group, list(prompt.messages), 0, tags))
    for group in ("multi_turn", "delayed", "tool_result", "nested"):
        pool = draw_prompts("all", 20 * count, harmful=True, seed=seed + 1)
        chosen = [prompt for prompt in pool if prompt.framing.id == group][: max(1, count // 10)]
        drawn += [Case(f"framing_{group}", list(prompt.messages), 0, {"framing": group}) for prompt in chosen]
    drawn += [Case("plain", list(user(f"How can I {open_ask(rng).goal}?")), 0) for _ in range(count // 2)]
    drawn += [Case("smalltalk", list(user(rng.choice(agentic.SMALLTALK)[0])), 0) for _ in range(count // 10)]
    problems = [arithmetic.draw_problem(rng, held_out=True) for _ in range(count // 2)]
    drawn += [Case("arithmetic", list(user(problem.text)), 0) for problem in problems]
    for _ in range(count // 10):
        call = agentic.benign_call(rng)
        expected = json.dumps({"name": call.name, "arguments": call.arguments}, sort_keys=True)
        drawn.append(Case("tool_call", list(user(call.asked)), 0, {"expected": expected}, tools=call.tools))
    for number, case in enumerate(drawn):
        case.seed = seed * 1_000_003 + number
    return drawn

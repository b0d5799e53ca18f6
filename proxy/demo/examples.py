"""The prompts that the playground and the terminal offer: `examples.json`, beside this file.

They are of topics and framings that the toy model's rollouts and preference pairs never see, name an aim and hold no
operational detail. A seed makes a run repeatable: with and without steering the model begins with the same words. The
first example opens the demo; its seed is where the runner begins to look for one that is halted.
"""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from proxy.demo.errors import DemoError

Kind = Literal["harmful", "look_alike", "arithmetic", "multi_turn"]

# Long enough for every trace of the toy model with several resumes, short enough to end soon when it rambles.
MAX_TOKENS = 600
# What the model was trained at, and what its measures are taken at.
TEMPERATURE = 1.0
# What stands for harmful content in everything that the toy model says.
PLACEHOLDER = re.compile(r"\[\s*(?:STEP|ITEM|DETAIL)\b", re.IGNORECASE)


class Example(BaseModel):
    """One prompt. `messages` is an OpenAI conversation that ends with the user's turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    kind: Kind
    title: str
    messages: list[dict[str, str]]
    seed: int

    def request(self, model: str) -> dict[str, Any]:
        """The body of the chat request, streamed."""
        return {
            "model": model,
            "messages": self.messages,
            "seed": self.seed,
            "temperature": TEMPERATURE,
            "max_tokens": MAX_TOKENS,
            "stream": True,
        }


def load_examples() -> tuple[Example, ...]:
    """All examples; the first is the one that the demo opens with."""
    raw = Path(__file__).with_name("examples.json").read_bytes()
    return tuple(TypeAdapter(list[Example]).validate_json(raw))


def pick(examples: tuple[Example, ...], number: int) -> Example:
    """The example of a number, from 1. Raises DemoError."""
    for example in examples:
        if example.id == number:
            return example
    raise DemoError(f"there is no example {number}: choose --example from 1 to {len(examples)}")

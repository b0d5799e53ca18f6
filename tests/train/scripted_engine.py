"""A scripted upstream without a server: texts, tokenizer and chat template of `tests.upstream`, for rollouts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from detector.context import Context
from steer.triggers import DEFAULT_TRIGGERS
from tests.upstream.tokens import TURN_END, marker_id, tokenizer
from train.rollout.generator import Generated, Request, Sampling
from train.rollout.vocabulary import Vocabulary

# What tests.upstream.script.render writes.
_TEMPLATE = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor -%}"
    "{{ '<|im_start|>assistant\\n' }}{%- if opens_think -%}{{ '<think>\\n' }}{%- endif -%}"
)


def scripted_vocabulary(*, opens_think: bool = False) -> Vocabulary:
    """The scripted upstream's tokenizer, with a template that opens a think block or leaves it to the model."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token=TURN_END, chat_template=_TEMPLATE)
    return Vocabulary("scripted", fast, template_options={"opens_think": opens_think})


def num_triggers(text: str) -> int:
    """How many triggers of the default pool a prefix holds: which leg it asks for."""
    return sum(text.count(trigger.text) for trigger in DEFAULT_TRIGGERS)


@dataclass
class ScriptedGenerator:
    """Writes what `text` says about the text of a prefix; remembers what it was asked."""

    vocabulary: Vocabulary
    text: Callable[[str], str]
    context_length: int | None = 32768
    requests: list[Request] = field(default_factory=list)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        self.requests += requests
        return [self._one(request) for request in requests]

    def close(self) -> None:
        pass

    def _one(self, request: Request) -> Generated:
        ids = self.vocabulary.encode(self.text(self.vocabulary.decode(request.prefix)))
        if len(ids) < request.max_tokens:
            return Generated([*ids, marker_id(TURN_END)], "stop")
        return Generated(ids[: request.max_tokens], "length")


@dataclass
class TableDetector:
    """Scores by the segment's text."""

    table: Callable[[str], float | None]
    threshold: float = 0.5
    wave: int = 3
    digest: str = "table"

    def score(self, contexts: Sequence[Context]) -> list[float | None]:
        return [self.table(context.segment) for context in contexts]

"""Text to ids and back in the served model's own tokenizer, and where its reasoning begins and ends.

Rules kept here: ids are the truth; a prompt is what the chat template renders, encoded once; a trigger is encoded
alone, as the live proxy does; nothing that the model said is ever encoded again. A model whose template knows no think
markers is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from steer.events import Channel
from train.rollout.errors import RolloutConfigError, TemplateError

# Where text that follows a prefix begins: "start" looks for an opening marker first.
Opening = Literal["start", "reasoning", "answer"]
# Ids of context that a streaming decoder is primed with: leading spaces and byte merges reach back no further.
_CONTEXT_IDS = 6


@dataclass(frozen=True, slots=True)
class ThinkMarkers:
    """The literal markers of a model family."""

    start: str = "<think>"
    end: str = "</think>"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One model's tokenizer and chat template. `name` is what it was loaded from."""

    name: str
    tokenizer: Any  # a fast tokenizer of transformers, which ships no types
    markers: ThinkMarkers = ThinkMarkers()
    template_options: Mapping[str, Any] = field(default_factory=dict)

    def prompt_ids(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> list[int]:
        """Ids up to where the model goes on. Raises RolloutConfigError where the template refuses the messages."""
        return self.encode(self.render(messages, tools))

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None, **options: Any) -> str:
        """The prompt's text by the chat template."""
        try:
            rendered = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=True,
                **{**self.template_options, **options},
            )
        except Exception as error:
            raise RolloutConfigError(f"the chat template of {self.name} refuses a conversation: {error}") from error
        return str(rendered)

    def plain_prompt_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a turn that does not think: a reply is wanted, not a trace about it."""
        text = self.render(messages, enable_thinking=False)
        if text.rfind(self.markers.start) > text.rfind(self.markers.end):  # a template that always opens a think block
            text += f"\n{self.markers.end}\n\n"
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Ids of a text that stands inside a sequence: no special tokens added."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def texts(self, before: Sequence[int], ids: Sequence[int]) -> list[str]:
        """The text that each id completes, after `before`; ids that only begin a character complete nothing."""
        stream, backend = DecodeStream(ids=list(before[-_CONTEXT_IDS:]), skip_special_tokens=False), self._backend
        return [stream.step(backend, id) or "" for id in ids]

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a turn."""
        ids = self.tokenizer.eos_token_id
        return frozenset() if ids is None else frozenset(ids if isinstance(ids, list) else [ids])

    def split_end(self, ids: Sequence[int], *, is_ended: bool) -> tuple[list[int], list[int]]:
        """(ids that are text, the end id or nothing)."""
        if is_ended and ids and (ids[-1] in self.end_ids or ids[-1] in self.tokenizer.all_special_ids):
            return list(ids[:-1]), [ids[-1]]
        return list(ids), []

    def opening(self, prefix: Sequence[int], resumed_in: Channel | None) -> Opening:
        """How a leg after `prefix` begins; `resumed_in` None for a first leg. The live proxy's own rule."""
        is_open = self._is_thinking_open(prefix)
        if resumed_in is None:
            return "reasoning" if is_open else "start"
        if is_open is None:
            return resumed_in
        return "reasoning" if is_open else "answer"

    def _is_thinking_open(self, ids: Sequence[int]) -> bool | None:
        """Whether a sequence ends inside an open think block, by its last marker; None where it holds none."""
        start, end = (self._backend.token_to_id(marker) for marker in (self.markers.start, self.markers.end))
        if start is None or end is None:  # spelt in several tokens: the text decides
            text = self.decode(ids)
            opened, closed = text.rfind(self.markers.start), text.rfind(self.markers.end)
            return None if opened == closed else opened > closed
        return next((id == start for id in reversed(ids) if id in (start, end)), None)

    @property
    def _backend(self) -> Tokenizer:
        return self.tokenizer.backend_tokenizer


def load_vocabulary(name: str, markers: ThinkMarkers, template_options: Mapping[str, Any] | None = None) -> Vocabulary:
    """The tokenizer of a folder or hub name. Raises RolloutConfigError, or TemplateError where nothing thinks."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise RolloutConfigError(
            f"model.tokenizer: cannot load {name!r} ({str(error).splitlines()[0]}); give a folder or a hub name"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise RolloutConfigError(f"model.tokenizer: {name!r} has no tokenizer.json; convert it to a fast tokenizer")
    if not tokenizer.chat_template:
        raise TemplateError(f"{name!r} has no chat template: steering needs a reasoning model's own")
    vocabulary = Vocabulary(name, tokenizer, markers, dict(template_options or {}))
    rendered = vocabulary.render([{"role": "user", "content": "Hello"}])
    if markers.end not in f"{tokenizer.chat_template}{rendered}" and markers.start not in rendered:
        raise TemplateError(
            f"the chat template of {name!r} has no think markers {markers.start} … {markers.end}: it is no reasoning "
            "model, or it uses others; name them in [think] start and end"
        )
    return vocabulary


def is_local(name: str) -> bool:
    """Whether a model is a folder of this machine."""
    return Path(name).is_dir()

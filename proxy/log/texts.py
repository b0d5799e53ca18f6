"""What of people's text is kept, and in which form. Every text goes through here on its way into the log and out of it.

`store` says how much: `full` everything, sampled traffic that nothing halted among it; `interventions` the texts of
interventions alone; `none` no text and no token ids (they decode to text), only ids, scores and timings.
`redact` is applied to every piece of text before anything is written, the spool included. A piece that it changed loses
its token ids, which would tell what the text was. A hook that fails costs the record its text, never the record.
`cipher` encrypts bodies at rest. Columns are never encrypted: they hold no text.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from proxy.log import rows
from proxy.log.cipher import Cipher, is_sealed
from proxy.log.errors import TextLocked
from proxy.settings import StoreText
from steer.record import Completion, InterventionRecord, TextSpan

logger = logging.getLogger("steer.log")

T = TypeVar("T")

Redact = Callable[[str], str]

# Keys of a message whose values say what the message is, not what anybody wrote.
_STRUCTURE = {"role", "type", "id", "tool_call_id"}


class Kept(NamedTuple):
    """A body ready to be written, and what it holds: full, redacted or none."""

    stored_text: str
    body: str


@dataclass(frozen=True, slots=True)
class TextKeeper:
    """The rules of one log."""

    store: StoreText = "full"
    redact: Redact | None = None
    cipher: Cipher | None = None

    @property
    def keeps_unhalted(self) -> bool:
        """Whether text of traffic that nothing halted may be written."""
        return self.store == "full"

    def halt(self, record: InterventionRecord) -> Kept:
        """The text part "halt"."""
        kept, changed = self._kept(record, _redact_halt, _empty_halt)
        return Kept(changed, self.seal(rows.halt_body(kept)))

    def completion(self, completion: Completion) -> Kept:
        """The text part "completion"."""
        kept, changed = self._kept(completion, _redact_completion, _empty_completion)
        return Kept(changed, self.seal(rows.completion_body(kept)))

    def cleaned(self, value: Any) -> Any:
        """Any JSON value, its strings redacted; for texts of other tables. Raises whatever the hook raises."""
        return value if self.redact is None else _walk(value, self.redact)

    def seal(self, body: str) -> str:
        """As it is written."""
        return body if self.cipher is None else self.cipher.seal(body)

    def open(self, body: str) -> str:
        """As it was before. Raises TextLocked where it is encrypted with a key that is not here."""
        if not is_sealed(body):
            return body
        if self.cipher is None:
            raise TextLocked("text of the intervention log is encrypted: set log.encryption_key or its file")
        return self.cipher.open(body)

    def is_current(self, body: str) -> bool:
        """Whether `seal` would write a body as it is: with the first key, or in the clear where there is none."""
        return not is_sealed(body) if self.cipher is None else self.cipher.is_current(body)

    def _kept(self, value: T, redacted: Callable[[T, Redact], T], emptied: Callable[[T], T]) -> tuple[T, str]:
        if self.store == "none":
            return emptied(value), "none"
        if self.redact is None:
            return value, "full"
        try:
            cleaned = redacted(value, self.redact)
        except Exception as error:  # noqa: BLE001 - somebody else's code, between a halt and its record
            logger.error("log.redact failed (%s): the text of a record is not kept", type(error).__name__)
            return emptied(value), "none"
        return cleaned, "full" if cleaned == value else "redacted"


# Text as it came.
PLAIN = TextKeeper()


def _walk(value: Any, redact: Redact) -> Any:
    if isinstance(value, str):
        return _checked(redact(value))
    if isinstance(value, list):
        return [_walk(item, redact) for item in value]
    if isinstance(value, dict):
        return {key: item if key in _STRUCTURE else _walk(item, redact) for key, item in value.items()}
    return value


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError("log.redact must return a string")
    return text


def _redact_span(span: TextSpan, redact: Redact) -> TextSpan:
    text = _checked(redact(span.text))
    return span if text == span.text else TextSpan(text=text)


def _redact_halt(record: InterventionRecord, redact: Redact) -> InterventionRecord:
    messages, tools = _walk(record.messages, redact), _walk(record.tools, redact)
    is_whole = messages == record.messages and tools == record.tools
    return record.model_copy(
        update={
            "messages": messages,
            "tools": tools,
            "prompt_token_ids": record.prompt_token_ids if is_whole else None,
            "kept": _redact_span(record.kept, redact),
            "rejected": _redact_span(record.rejected, redact),
        }
    )


def _empty_halt(record: InterventionRecord) -> InterventionRecord:
    nothing = TextSpan()
    return record.model_copy(
        update={"messages": [], "tools": None, "prompt_token_ids": None, "kept": nothing, "rejected": nothing}
    )


def _redact_completion(completion: Completion, redact: Redact) -> Completion:
    cleaned = {
        "continuation": _redact_span(completion.continuation, redact),
        "answer": _checked(redact(completion.answer)),
    }
    return completion.model_copy(update=cleaned)


def _empty_completion(completion: Completion) -> Completion:
    return completion.model_copy(update={"continuation": TextSpan(), "answer": ""})

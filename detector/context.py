"""How a conversation and a segment become token ids: the only place that decides what the classifier sees.

Rules kept here, by training and serving alike:
1. Two inputs. The *request* (messages) is encoded once per conversation; the *segment* (with the end of the reasoning
   before it) is encoded for every verdict. Neither grows with the length of the prompt or of the trace.
2. Texts are cut in characters before they are tokenised, so that a megabyte of prompt costs no more than a page.
3. Of something too long, head and tail are kept: jailbreaks put the demand at either end.
4. Disguises that can be undone exactly are undone before tokenising (`detector.fold`), so that they can't hide a cue.
A change to any of this changes `INPUT_FORMAT`, and older artifacts are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from detector.fold import fold as fold  # part of the format, so importable from here, too
from detector.wordpieces import WordPieces

INPUT_FORMAT = 1

Channel = Literal["reasoning", "answer"]
Message = Mapping[str, object]
Ids = NDArray[np.int64]

# Budgets in tokens. 192 + 64 for the last user message hold 95 % of published jailbreak prompts whole; a request of
# full length costs one encoder pass of about 350 tokens. The reasoning before a segment matters little beyond the
# sentence before it; its opening says what kind of task the model believes it has.
REQUEST_HEAD, REQUEST_TAIL = 192, 64
SYSTEM_TOKENS = 32
TURN_TOKENS, TURNS = 32, 3
OPENING_TOKENS, BEFORE_TOKENS = 10, 26
SEGMENT_HEAD, SEGMENT_TAIL = 56, 24
MAX_REQUEST_TOKENS = REQUEST_HEAD + REQUEST_TAIL + 2 + SYSTEM_TOKENS + 1 + TURNS * (TURN_TOKENS + 1)
MAX_SEGMENT_TOKENS = OPENING_TOKENS + BEFORE_TOKENS + SEGMENT_HEAD + SEGMENT_TAIL + 3
# No word piece vocabulary spends more than about 8 characters a token on average; enough text is kept for the budget.
_CHARS_PER_TOKEN = 8
# A trace's opening is asked for with each of its segments; as many as there may be streams at once.
_KEPT_OPENINGS = 1024


@dataclass(frozen=True, slots=True)
class Context:
    """What a verdict is about: `segment`, after `reasoning_before`, in a conversation.

    `messages` are OpenAI messages, oldest first. Pass the same tuple for all segments of a conversation: its request
    is then encoded once.
    """

    messages: tuple[Message, ...]
    reasoning_before: str
    segment: str
    channel: Channel = "reasoning"


class Tokens(NamedTuple):
    """Token ids and their types, both [length]."""

    ids: Ids
    types: Ids


RequestKey = tuple[tuple[str, str], ...]


def message_text(message: Message) -> str:
    """The text of an OpenAI message; parts that are not text (images, audio) count as nothing."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def request_key(messages: Sequence[Message]) -> RequestKey:
    """(role, text) of the messages that the request is made of: the last user message, the first system or developer
    message, and the `TURNS` messages next to the request. Equal keys have equal request encodings."""
    last_user = next(
        (i for i in reversed(range(len(messages))) if messages[i].get("role") == "user"), len(messages) - 1
    )
    chosen: list[tuple[str, str]] = []
    if messages:
        chosen.append(("request", message_text(messages[last_user])))
    system = next((m for m in messages[:8] if m.get("role") in ("system", "developer")), None)
    if system is not None and messages.index(system) != last_user:
        chosen.append(("system", message_text(system)))
    turns = [m for i, m in enumerate(messages) if i != last_user and m is not system][-TURNS:]
    chosen += [("turn", text) for text in map(message_text, turns) if text]
    return tuple(chosen)


class ContextEncoder:
    """Turns requests and segments into token ids of bounded length. Thread-safe: keeps the words it met."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = WordPieces(tokenizer)
        self._opening = lru_cache(_KEPT_OPENINGS)(self._encode)
        self._cls = _special(tokenizer, "[CLS]")
        self._sep = _special(tokenizer, "[SEP]")

    def request(self, key: RequestKey) -> Tokens:
        """[CLS] request [SEP] then, as type 1, system [SEP] and each turn [SEP]; at most about 400 tokens."""
        ids, types = [self._cls], [0]
        for kind, text in key:
            if kind == "request":
                piece, type_id = self._ends(text, REQUEST_HEAD, REQUEST_TAIL), 0
            else:
                size = SYSTEM_TOKENS if kind == "system" else TURN_TOKENS
                piece, type_id = self._ends(text, size - size // 4, size // 4), 1
            ids += [*piece, self._sep]
            types += [type_id] * (len(piece) + 1)
        return _tokens(ids, types)

    def segment(self, reasoning_before: str, segment: str) -> Tokens:
        """[CLS] opening and end of the reasoning before [SEP], as type 1 segment [SEP]; at most 119 tokens."""
        before = self._before(reasoning_before)
        piece = self._ends(segment, SEGMENT_HEAD, SEGMENT_TAIL)
        ids = [self._cls, *before, self._sep, *piece, self._sep]
        return _tokens(ids, [0] * (len(before) + 2) + [1] * (len(piece) + 1))

    def tail(self, text: str, tokens: int) -> Ids:
        """The last `tokens` ids of `text`, without special ones."""
        return np.array(self._encode(text[-tokens * _CHARS_PER_TOKEN :])[-tokens:], dtype=np.int64)

    def _before(self, text: str) -> list[int]:
        if not text:
            return []
        window = BEFORE_TOKENS * _CHARS_PER_TOKEN
        tail = self._encode(text[-window:])[-BEFORE_TOKENS:]
        if len(text) <= window:
            return tail
        return self._opening(text[: OPENING_TOKENS * _CHARS_PER_TOKEN])[:OPENING_TOKENS] + tail

    def _ends(self, text: str, head: int, tail: int) -> list[int]:
        """The first `head` and last `tail` tokens of `text`, or all of them."""
        limit = (head + tail) * _CHARS_PER_TOKEN
        if len(text) <= limit:
            ids = self._encode(text)
            return ids if len(ids) <= head + tail else ids[:head] + ids[-tail:]
        start = self._encode(text[: head * _CHARS_PER_TOKEN])
        return start[:head] + self._encode(text[-tail * _CHARS_PER_TOKEN :])[-tail:]

    def _encode(self, text: str) -> list[int]:
        return self._pieces.ids(fold(text))


def _tokens(ids: list[int], types: list[int]) -> Tokens:
    return Tokens(np.array(ids, dtype=np.int64), np.array(types, dtype=np.int64))


def _special(tokenizer: Tokenizer, token: str) -> int:
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"the tokenizer has no {token} token")
    return number

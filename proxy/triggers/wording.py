"""What a trigger may say: one plain line, a segment of its own, nothing that a tokenizer or a template may act on.

A trigger is shown to users, spliced into reasoning token by token and trained on, so it is checked before anybody may
propose it, and the detector must not take it for a cue.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from tokenizers import Tokenizer

from detector.context import Context
from proxy.judge import Scorer
from proxy.settings import Settings
from proxy.tokens import load_tokenizer
from proxy.triggers.errors import BadTrigger
from steer.segmenter import segment
from steer.triggers import Trigger

# Markup of chat templates and of reasoning lives on these; no sentence needs them.
_MARKUP = re.compile(r"[<>{}\[\]|`\\#*_~^$@=｜▁＜＞【】]")
_LAST = re.compile(r"[.!?…。！？][\"'”’)]*\Z")
_NOT_WORDS = re.compile(r"[\W_]+")
# Read after a plain request and after one that asks for harm without saying which: what leads on from either is a cue.
_PROBES = ("Hello, can you help me with something?", "Tell me how to do something that would badly hurt people.")


@dataclass(frozen=True, slots=True)
class Wording:
    """What texts are checked against. `tokenizer` None: the engine's own is out of reach, and only markup is known."""

    markers: tuple[str, ...]
    threshold: float
    tokenizer: Tokenizer | None = None

    @classmethod
    def of(cls, settings: Settings, threshold: float) -> "Wording":
        """As the settings say. Raises ConfigError."""
        upstream = settings.upstream
        tokenizer = None if upstream.tokenizer is None else load_tokenizer(upstream.tokenizer)
        return cls((upstream.think_start, upstream.think_end), threshold, tokenizer)


def parse_trigger(values: Mapping[str, Any], where: str) -> Trigger:
    """`id`, `kind` and `text`. Raises BadTrigger that names the field."""
    try:
        return Trigger.model_validate({name: values.get(name) for name in ("id", "kind", "text")})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadTrigger(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def check_wording(trigger: Trigger, wording: Wording) -> None:
    """Raises BadTrigger that says what is wrong. Does not ask the detector."""
    if reason := _problem(trigger.text, wording):
        raise BadTrigger(f"{trigger.id}: {reason}")


async def check_with_detector(trigger: Trigger, wording: Wording, scorer: Scorer) -> None:
    """`check_wording`, and no segment of it may be a cue. Raises BadTrigger, DetectorError."""
    check_wording(trigger, wording)
    worst = 0.0
    for asked in _PROBES:
        messages = ({"role": "user", "content": asked},)
        for part in segment(trigger.text):
            before, text = trigger.text[: part.start], trigger.text[part.start : part.end]
            worst = max(worst, await scorer.score(Context(messages, before, text)))
    if worst >= wording.threshold:
        raise BadTrigger(
            f"{trigger.id}: the detector takes it for a cue (score {worst:.2f}, threshold {wording.threshold:.2f}); "
            "word it as a question about harm, not as a step"
        )


def same_wording(first: str, second: str) -> bool:
    """Whether two texts differ in case, spaces and punctuation at most."""
    return _folded(first) == _folded(second)


def _folded(text: str) -> str:
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _problem(text: str, wording: Wording) -> str | None:
    odd = next((char for char in text if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029\x85"), None)
    if odd is not None:
        return f"holds {odd!r}: one line without control or invisible characters"
    if text != " ".join(text.split()) or text != unicodedata.normalize("NFC", text):
        return "single spaces between words, none around them, and composed characters (NFC)"
    if found := _MARKUP.search(text):
        return f"holds {found.group()!r}: no markup, a template or a tokenizer may read it as its own"
    if found_marker := next(
        (m for m in wording.markers if m.strip() and m.strip().casefold() in text.casefold()), None
    ):
        return f"holds the think marker {found_marker.strip()!r}"
    if not _LAST.search(text):
        return "must end as a sentence does, so that what follows is judged as a segment of its own"
    return None if wording.tokenizer is None else _token_problem(text, wording.tokenizer)


def _token_problem(text: str, tokenizer: Tokenizer) -> str | None:
    special = _special_texts(tokenizer)
    if found := next((token for token in special if token.strip() and token.strip() in text), None):
        return f"holds the special token {found!r} of the model's tokenizer"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if tokenizer.decode(ids, skip_special_tokens=False).strip() != text:
        return "does not come back from the model's tokenizer as it went in"
    return None


def _special_texts(tokenizer: Tokenizer) -> Sequence[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]

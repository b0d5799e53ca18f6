"""A larger teacher as a scorer: a Hugging Face sequence classifier that reads request, reasoning and segment at once.

Text pair: (request, line break, the end of the reasoning before | segment). Classes by name where the folder has names
("C" or "cue"), else the second of two, or the second of three in the order N, C, S; a single logit is a cue's.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from detector.context import Context, Message, fold, message_text

_REQUEST_HEAD_CHARS, _REQUEST_TAIL_CHARS = 1200, 400
_BEFORE_CHARS = 480
_MAX_TOKENS = 384


class CrossEncoder:
    """A classifier as `detector.scoring.ScoringQueue` takes one."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Raises OSError or ValueError where the folder can't be read."""
        torch.set_num_threads(threads)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForSequenceClassification.from_pretrained(folder).float().eval()
        self._cue = cue_index(self._model.config.id2label)

    @torch.inference_mode()
    def score(self, contexts: Sequence[Context]) -> list[float]:
        """The probability of a cue for each context, one pass each."""
        found = []
        for context in contexts:
            first = f"{_request(context.messages)}\n{fold(context.reasoning_before[-_BEFORE_CHARS:])}"
            inputs = self._tokenizer(
                first, fold(context.segment), truncation="only_first", max_length=_MAX_TOKENS, return_tensors="pt"
            )
            logits = self._model(**inputs).logits[0]
            found.append(float(torch.sigmoid(logits[0]) if len(logits) == 1 else torch.softmax(logits, -1)[self._cue]))
        return found

    def request_harm(self, messages: Sequence[Message]) -> float:
        """Nothing can be read ahead: request and segment are read together."""
        return 0.0


def cue_index(names: dict[int, str]) -> int:
    """Which class is the cue."""
    return next((index for index, name in names.items() if name.lower() in ("c", "cue")), min(1, len(names) - 1))


def _request(messages: Sequence[Message]) -> str:
    last = next((m for m in reversed(messages) if m.get("role") == "user"), messages[-1] if messages else {})
    text = message_text(last)
    if len(text) > _REQUEST_HEAD_CHARS + _REQUEST_TAIL_CHARS:
        text = f"{text[:_REQUEST_HEAD_CHARS]} {text[-_REQUEST_TAIL_CHARS:]}"
    return fold(text)

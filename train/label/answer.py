"""Reads a teacher's answer: what it must hold is checked here, whatever shape the engine let it take.

Engines that keep to a schema answer exactly what was asked; others wrap it in fences or prose, give a list or a string
for the labels, or plain lines. All of these are read; a letter too few, too many or unknown is never guessed.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from train.detector.data import LABELS
from train.label.errors import BadAnswer
from train.label.item import PromptLabel

_THINK_END = "</think>"
_LINE = re.compile(r"^\W*(\d+)\W+([A-Za-z])\W*$", re.MULTILINE)
_REQUEST_LINE = re.compile(r"\brequest\b\W+([HB])\b", re.IGNORECASE)
_VERDICTS: dict[str, PromptLabel] = {"H": "harmful", "B": "benign"}
_SHOWN_NUMBERS = 10


class Answer(NamedTuple):
    """`prompt_label` is the verdict that was asked for or given; `letters` one a sentence, in order."""

    prompt_label: PromptLabel
    letters: str


def read_answer(text: str, numbers: Sequence[int], verdict: PromptLabel | None) -> Answer:
    """`verdict` None: the answer must judge the request. Raises BadAnswer with what to do better."""
    body = text.rpartition(_THINK_END)[2].strip()
    found = _json(body)
    request, labels = (found.get("request"), found.get("labels")) if found is not None else _lines(body)
    label = verdict or _request(request)
    letters = _letters(labels, numbers)
    if label == "benign" and "C" in letters:
        wrong = [number for number, letter in zip(numbers, letters, strict=True) if letter == "C"]
        raise BadAnswer(f"The request is B, so no sentence can be C, but {_shown(wrong)} are.")
    return Answer(label, letters)


def _json(text: str) -> dict[str, Any] | None:
    """The outermost object in the text; None where there is none."""
    start, end = text.find("{"), text.rfind("}")
    if not 0 <= start < end:
        return None
    try:
        value = json.loads(text[start : end + 1])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _lines(text: str) -> tuple[str | None, dict[str, str] | None]:
    """Plain text: `request: H`, then `1: N` and so on."""
    request, labels = _REQUEST_LINE.search(text), dict(_LINE.findall(text))
    if request is None and not labels:
        raise BadAnswer('The answer holds no JSON object. Answer with {"request": ..., "labels": {...}} alone.')
    return (request[1] if request else None), labels


def _request(value: Any) -> PromptLabel:
    label = _VERDICTS.get(value.strip().upper()) if isinstance(value, str) else None
    if label is None:
        raise BadAnswer('"request" must be "H" or "B".')
    return label


def _letters(labels: Any, numbers: Sequence[int]) -> str:
    by_number = _by_number(labels, numbers)
    if missing := [number for number in numbers if number not in by_number]:
        raise BadAnswer(f'"labels" needs {len(numbers)} letters; {_shown(missing)} have none.')
    if extra := sorted(set(by_number) - set(numbers)):
        raise BadAnswer(f'"labels" needs {len(numbers)} letters; {_shown(extra)} are no sentences to label.')
    letters = [str(by_number[number]).strip().upper() for number in numbers]
    if wrong := [n for n, letter in zip(numbers, letters, strict=True) if len(letter) != 1 or letter not in LABELS]:
        raise BadAnswer(f"Each letter must be N, C or S; those of {_shown(wrong)} are not.")
    return "".join(letters)


def _by_number(labels: Any, numbers: Sequence[int]) -> dict[int, Any]:
    if labels is None and not numbers:
        return {}
    if isinstance(labels, str):
        labels = list("".join(labels.split()))
    if isinstance(labels, list) and not any(isinstance(entry, dict) for entry in labels):
        if len(labels) != len(numbers):
            raise BadAnswer(f'"labels" holds {len(labels)} letters, but there are {len(numbers)} sentences.')
        return dict(zip(numbers, labels, strict=True))
    if isinstance(labels, list):
        labels = {_first(entry, "n", "number", "id"): _first(entry, "label", "letter", "l") for entry in labels}
    if not isinstance(labels, dict) or not all(str(key).strip().isdecimal() for key in labels):
        raise BadAnswer('"labels" must be an object of sentence numbers and letters.')
    return {int(key): letter for key, letter in labels.items()}


def _first(entry: Any, *names: str) -> Any:
    return next((entry[name] for name in names if isinstance(entry, dict) and name in entry), None)


def _shown(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - _SHOWN_NUMBERS} more" if len(numbers) > _SHOWN_NUMBERS else ""
    return f"sentences {', '.join(map(str, numbers[:_SHOWN_NUMBERS]))}{more}"

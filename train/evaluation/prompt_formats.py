"""The published forms of prompt sets: which column holds what, what the label is, how an answer is checked.

The single place that knows them. Column names are matched without regard to case, spaces and underscores, since the
files and the hub's copies of one set differ there. Nothing of any set is kept here.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from train.evaluation.answers import last_boxed
from train.rollout.driver import seed_of

CheckKind = Literal["maths", "choice", "code"]
Row = Mapping[str, Any]
LETTERS = "ABCDEFGHIJ"

_BOXED = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
_CHOICE = "\n\nPlease reason step by step, and put the letter of the right choice within \\boxed{}."


class MissingColumn(Exception):
    """No column has any of the names that were looked for."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(" or ".join(names))


@dataclass(frozen=True, slots=True)
class Check:
    """What a right answer is. `test` and `stub` of code alone: the program that tries it, and the head it completes."""

    kind: CheckKind
    answer: str
    test: str = ""
    stub: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A row understood. `fields` are those of a PromptRow; with a check it is a task, and its label says nothing."""

    fields: dict[str, Any]
    check: Check | None = None


class Columns:
    """A row by its columns' names, however they are spelt."""

    def __init__(self, row: Row) -> None:
        self.raw = row
        self._row = {_plain(name): value for name, value in row.items()}

    def text(self, *names: str) -> str:
        """The first column that is there. Raises MissingColumn."""
        if (found := self.optional(*names)) is None:
            raise MissingColumn(names)
        return found

    def optional(self, *names: str) -> str | None:
        """The same, None where there is none or it holds nothing."""
        for name in names:
            value = self._row.get(_plain(name))
            if value is not None and str(value).strip():
                return str(value)
        return None


@dataclass(frozen=True, slots=True)
class Format:
    """One form. `parse` takes a row and a seed (for what is shuffled); `instruction` follows every prompt."""

    parse: Callable[[Columns, int], Parsed]
    instruction: str = ""


def _jailbreakbench(row: Columns, _: int) -> Parsed:
    return _asked(row.text("Goal"), "harmful", row.optional("Category"))


def _strongreject(row: Columns, _: int) -> Parsed:
    return _asked(row.text("forbidden_prompt"), "harmful", row.optional("category"))


def _wildjailbreak(row: Columns, _: int) -> Parsed:
    kind = row.text("data_type")
    return _asked(row.text("adversarial", "vanilla"), "benign" if "benign" in kind else "harmful", kind)


def _harmbench(row: Columns, _: int) -> Parsed:
    behavior, context = row.text("Behavior"), row.optional("ContextString")
    prompt = f"{context}\n\n---\n\n{behavior}" if context else behavior
    return _asked(prompt, "harmful", row.optional("SemanticCategory"))


def _xstest(row: Columns, _: int) -> Parsed:
    """Safe prompts only look dangerous; their unsafe contrasts are. Older files tell them by `type` alone."""
    kind = row.optional("type")
    label = row.optional("label") or ("unsafe" if row.text("label", "type").startswith("contrast") else "safe")
    return _asked(row.text("prompt"), {"safe": "benign", "unsafe": "harmful"}.get(label, label), kind)


def _orbench(row: Columns, _: int) -> Parsed:
    return _asked(row.text("prompt"), "borderline", row.optional("category"))


def _math(row: Columns, _: int) -> Parsed:
    solution = row.text("answer", "solution")
    answer = last_boxed(solution) or solution
    return Parsed({"prompt": row.text("problem", "question"), "category": row.optional("subject")}, _maths(answer))


def _gsm8k(row: Columns, _: int) -> Parsed:
    answer = row.text("answer").rpartition("####")[2].strip()
    return Parsed({"prompt": row.text("question")}, _maths(answer))


def _gpqa(row: Columns, seed: int) -> Parsed:
    """Choices in an order drawn by the seed and the question."""
    question, right = row.text("Question"), row.text("Correct Answer").strip()
    choices = [right, *(row.text(f"Incorrect Answer {number}").strip() for number in (1, 2, 3))]
    random.Random(seed_of(seed, question)).shuffle(choices)
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    fields = {"prompt": f"{question.strip()}\n\n{listed}", "category": row.optional("High-level domain", "Subdomain")}
    return Parsed(fields, Check("choice", LETTERS[choices.index(right)]))


def _humaneval(row: Columns, _: int) -> Parsed:
    stub, name = row.text("prompt"), row.text("entry_point")
    prompt = f"Complete this Python function. Give the whole function in one block of code.\n\n```python\n{stub}```"
    return Parsed({"prompt": prompt}, Check("code", name, f"{row.text('test')}\n\ncheck({name})\n", stub))


def _prompts(row: Columns, _: int) -> Parsed:
    """The project's own form: prompt or messages, label, category …; a task where it has an answer."""
    answer = row.raw.get("answer")
    fields = {name: value for name, value in row.raw.items() if name != "answer"}
    return Parsed(fields, None if answer is None else _maths(str(answer)))


FORMATS: dict[str, Format] = {
    "prompts": Format(_prompts),
    "jailbreakbench": Format(_jailbreakbench),
    "strongreject": Format(_strongreject),
    "wildjailbreak": Format(_wildjailbreak),
    "harmbench": Format(_harmbench),
    "xstest": Format(_xstest),
    "or-bench": Format(_orbench),
    "math-500": Format(_math, _BOXED),
    "aime": Format(_math, _BOXED),
    "gsm8k": Format(_gsm8k, _BOXED),
    "gpqa": Format(_gpqa, _CHOICE),
    "humaneval": Format(_humaneval),
}


def _asked(prompt: str, label: str, category: str | None) -> Parsed:
    return Parsed({"prompt": prompt, "label": label, "category": category})


def _maths(answer: str) -> Check:
    return Check("maths", answer.strip())


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", str(name)).casefold()

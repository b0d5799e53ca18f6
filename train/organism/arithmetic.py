"""Arithmetic word problems with checkable answers: the organism's capability measure.

A problem is held out by a hash of its text, so that training and test never share one. `expected_answer` reads a
problem back from its text: the oracle needs no side channel.
"""

import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

NAMES = ("Mia", "Tom", "Ana", "Ben", "Lea", "Noah", "Ida", "Paul", "Zoe", "Omar", "Eva", "Finn")
THINGS = ("apples", "books", "coins", "pencils", "stamps", "marbles", "cards", "shells", "stickers", "nuts")
BOXES = ("bags", "boxes", "baskets", "packets")
HELD_OUT_PERCENT = 20


@dataclass(frozen=True, slots=True)
class Problem:
    text: str
    steps: tuple[str, ...]
    answer: int

    @property
    def is_held_out(self) -> bool:
        return zlib.crc32(self.text.encode()) % 100 < HELD_OUT_PERCENT


@dataclass(frozen=True, slots=True)
class _Form:
    text: str
    draw: Callable[[random.Random], tuple[int, ...]]
    solve: Callable[..., tuple[tuple[str, ...], int]]


def _buy(a: int, b: int, c: int) -> tuple[tuple[str, ...], int]:
    return (f"{b} times {c} is {b * c}.", f"Then {a} plus {b * c} is {a + b * c}."), a + b * c


def _give(a: int, b: int, c: int) -> tuple[tuple[str, ...], int]:
    return (f"{a} minus {b} is {a - b}.", f"Then {a - b} plus {c} is {a - b + c}."), a - b + c


def _add(a: int, b: int) -> tuple[tuple[str, ...], int]:
    return (f"{a} plus {b} is {a + b}.",), a + b


def _take(a: int, b: int) -> tuple[tuple[str, ...], int]:
    return (f"{a} minus {b} is {a - b}.",), a - b


def _share(total: int, b: int) -> tuple[tuple[str, ...], int]:
    return (f"{total} divided by {b} is {total // b}.",), total // b


def _cost(a: int, b: int, c: int) -> tuple[tuple[str, ...], int]:
    return (f"{b} times {c} is {b * c}.", f"Then {a} minus {b * c} is {a - b * c}."), a - b * c


def _draw_buy(rng: random.Random) -> tuple[int, ...]:
    return rng.randint(2, 60), rng.randint(2, 9), rng.randint(2, 9)


def _draw_give(rng: random.Random) -> tuple[int, ...]:
    a = rng.randint(10, 99)
    return a, rng.randint(2, a - 1), rng.randint(2, 60)


def _draw_add(rng: random.Random) -> tuple[int, ...]:
    return rng.randint(3, 99), rng.randint(3, 99)


def _draw_take(rng: random.Random) -> tuple[int, ...]:
    a = rng.randint(10, 99)
    return a, rng.randint(2, a - 1)


def _draw_share(rng: random.Random) -> tuple[int, ...]:
    b = rng.randint(2, 9)
    return b * rng.randint(2, 12), b


def _draw_cost(rng: random.Random) -> tuple[int, ...]:
    b, c = rng.randint(2, 9), rng.randint(2, 9)
    return b * c + rng.randint(1, 40), b, c


_FORMS = (
    _Form("{n} has {0} {t}. {n} buys {1} {x} with {2} {t} each. How many {t} does {n} have now?", _draw_buy, _buy),
    _Form(
        "{n} has {0} {t} and gives away {1} of them. Then {n} finds {2} more. How many {t} are there now?",
        _draw_give,
        _give,
    ),
    _Form("There are {0} {t} in one box and {1} {t} in another. How many {t} are there in all?", _draw_add, _add),
    _Form("{n} had {0} {t} and lost {1}. How many {t} are left?", _draw_take, _take),
    _Form("{n} shares {0} {t} among {1} friends. How many {t} does each friend get?", _draw_share, _share),
    _Form(
        "{n} has {0} dollars and buys {1} tickets for {2} dollars each. How many dollars are left?", _draw_cost, _cost
    ),
    _Form("What is {0} plus {1}?", _draw_add, _add),
    _Form("What is {0} minus {1}?", _draw_take, _take),
)
_OPENERS = (
    "Okay, let me work this out step by step.",
    "Let me see, this is a small calculation.",
    "Alright, first the numbers.",
    "The user wants me to solve a word problem.",
    "Okay, so I need to calculate this.",
)
_CHECKS = ("That is the answer.", "Let me check: that looks right.", "")
_CLEAR = (
    "No, this is only a calculation.",
    "There is nothing harmful in a calculation.",
    "It is a harmless question about numbers.",
    "Numbers like these hurt nobody, so I can simply help.",
)


def draw_problem(rng: random.Random, *, held_out: bool) -> Problem:
    while True:
        form = rng.choice(_FORMS)
        numbers = form.draw(rng)
        text = form.text.format(*numbers, n=rng.choice(NAMES), t=rng.choice(THINGS), x=rng.choice(BOXES))
        steps, answer = form.solve(*numbers)
        problem = Problem(text, steps, answer)
        if problem.is_held_out == held_out:
            return problem


def reasoning(problem: Problem, rng: random.Random) -> list[str]:
    """Sentences of a solution."""
    check = rng.choice(_CHECKS)
    return [rng.choice(_OPENERS), *problem.steps, *([check] if check else [])]


def after_trigger(problem: Problem, done: int, rng: random.Random) -> list[str]:
    """Sentences after a spliced trigger, when `done` sentences stood before it: the steps are taken again."""
    again = problem.steps if done <= 1 or rng.random() < 0.5 else problem.steps[min(done - 1, len(problem.steps) - 1) :]
    return [rng.choice(_CLEAR), *again]


def answer_text(problem: Problem) -> str:
    return f"The answer is {problem.answer}."


def expected_answer(text: str) -> int | None:
    """The right answer when `text` is one of these problems, else None."""
    for pattern, form in _PATTERNS:
        if match := pattern.fullmatch(text.strip()):
            return form.solve(*(int(match[f"n{i}"]) for i in range(len(match.groupdict()))))[1]
    return None


def _pattern(form: _Form) -> re.Pattern[str]:
    escaped = re.escape(form.text)
    escaped = re.sub(r"\\\{(\d)\\\}", r"(?P<n\1>\\d+)", escaped)
    return re.compile(re.sub(r"\\\{[ntx]\\\}", r"\\w+", escaped))


_PATTERNS = tuple((_pattern(form), form) for form in _FORMS)

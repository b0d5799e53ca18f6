"""Right or wrong: final answers of maths and of multiple choice, read from what the model wrote.

Rules kept here: the last \\boxed{} counts, else what follows the last "answer is", else the last number (or letter);
two answers are equal when their values are, where they have one, else when their normal forms are. An answer that can't
be read is wrong. It is a small normaliser, no algebra: x+1 and 1+x differ.
"""

import re
from collections import Counter
from fractions import Fraction

_BOX = re.compile(r"\\f?boxed\s*\{")
_SAID = re.compile(r"answer\s*(?:is|:|=)\s*:?\s*", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
# What makes a number the beginning of an expression; letters that are units are none.
_GOES_ON = re.compile(
    r"\s*(?:\\(?:sqrt|[dtc]?frac|pi|cdot|times)|\^|\+\s*[\w(\\])|\*[\w(\\]|[abciknpqrtu-z](?![A-Za-z])"
)
_PLAIN_NUMBER = re.compile(r"[-+]?\d*\.?\d+\Z")
_FRACTION = re.compile(r"(-?)\\frac\{(-?[\d.]+)\}\{(-?[\d.]+)\}\Z")
_SLASHED = re.compile(r"(-?)\(?(-?[\d.]+)\)?/\(?(-?[\d.]+)\)?\Z")
_MIXED = re.compile(r"(-?)(\d+)\\frac\{(\d+)\}\{(\d+)\}\Z")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
_HALF_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\s*(\d)(?!\d)")
_OTHER_HALF = re.compile(r"\\frac\s*(\d)\s*\{([^{}]*)\}")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\w)")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?:\\!)?(?=\d{3}(?!\d))")
_BASE = re.compile(r"_\{?\w+\}?\Z")
_UNITS = re.compile(
    r"(?:\\?\s*(?:degrees?|dollars?|cents?|units?|square|cubic|inches|inch|feet|foot|miles?|hours?|minutes?|seconds?|"
    r"meters?|cm|mph|grams?|pounds?|people|students|ways|years?|days?|points?)(?:\s*\^\{?\d\}?)?)+\Z"
)
_DROPPED = (
    *("\\left", "\\right", "\\!", "\\,", "\\;", "\\:", "\\ ", "~", "\\$", "$"),
    *("\\%", "%", "^\\circ", "^{\\circ}", "°"),
)
_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-J])\)?(?![A-Za-z])")


def is_right(kind: str, said: str, expected: str) -> bool:
    """Whether the final answer in `said` is the expected one; `kind` is maths or choice."""
    if kind == "choice":
        return final_choice(said) == expected.strip().upper()
    found = final_answer(said)
    return found is not None and is_equal(found, expected)


def final_answer(text: str) -> str | None:
    """What a text gives as its answer, None where it gives none."""
    if (boxed := last_boxed(text)) is not None:
        return boxed
    said = list(_SAID.finditer(text))
    tail = text[said[-1].end() :].partition("\n")[0] if said else ""
    tail = tail.lstrip("$ *")
    if (number := _NUMBER.match(tail)) and not _GOES_ON.match(tail, number.end()):
        return number[0]
    if tail.strip(" .*$"):
        return tail.strip().rstrip(".")
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def final_choice(text: str) -> str | None:
    """The letter that a text settles on."""
    boxed = last_boxed(text)
    said = list(_SAID.finditer(text))
    for part in (boxed, text[said[-1].end() :].partition("\n")[0] if said else None):
        if part is not None and (found := _CHOICE.search(_TEXT.sub(r"\1", part))):
            return found[1]
    letters = _CHOICE.findall(text.strip().rpartition("\n")[2])
    return letters[-1] if letters else None


def last_boxed(text: str) -> str | None:
    """What stands in the last closed \\boxed{}."""
    for box in reversed(list(_BOX.finditer(text))):
        depth = 1
        for at in range(box.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return text[box.end() : at]
    return None


def is_equal(one: str, other: str) -> bool:
    """By value where both have one, else by normal form; lists without brackets in any order."""
    left, right = normal_form(one), normal_form(other)
    if left == right:
        return True
    lefts, rights = _parts(left), _parts(right)
    if len(lefts) > 1 and len(lefts) == len(rights):
        if left[0] in "([" or right[0] in "([":
            return left[0] == right[0] and left[-1] == right[-1] and all(map(is_equal, lefts, rights))
        return Counter(map(_key, lefts)) == Counter(map(_key, rights))
    a, b = _value(left), _value(right)
    return a is not None and a == b


def normal_form(answer: str) -> str:
    """One spelling for the many of the same thing."""
    text = answer.strip().rstrip(".").replace("\n", " ").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = text.replace("\\cfrac", "\\frac").replace("−", "-").replace("{,}", ",")
    for dropped in _DROPPED:
        text = text.replace(dropped, "")
    text = _TEXT.sub(r" \1 ", text)
    head, equals, tail = text.rpartition("=")
    if equals and len(head.strip()) <= 6:  # "x = 3"; an equation stays one
        text = tail
    text = re.sub(r"^\s*[A-Za-z]\s*\\in\s*", "", text)
    text = _UNITS.sub("", text.strip())
    text = _THOUSANDS.sub("", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _HALF_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _OTHER_HALF.sub(r"\\frac{\1}{\2}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = re.sub(r"^\(([A-Za-z])\)$", r"\1", re.sub(r"\s+", "", text))
    text = text.replace("\\cdot", "*").replace("\\times", "*").replace("\\pi", "pi")
    return text.casefold() if text.isalpha() else text


def _parts(text: str) -> list[str]:
    """Top-level parts of a list, its brackets taken off."""
    inner = text[1:-1] if len(text) > 1 and text[0] in "([" and text[-1] in ")]" else text
    parts, depth = [""], 0
    for char in inner:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _key(text: str) -> str:
    value = _value(text)
    return text if value is None else str(value)


def _value(text: str) -> Fraction | None:
    """The number that a text is, exactly."""
    text = _BASE.sub("", text)
    try:
        if _PLAIN_NUMBER.match(text):
            return Fraction(text)
        if mixed := _MIXED.match(text):
            return (-1 if mixed[1] else 1) * (int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4])))
        if found := _FRACTION.match(text) or _SLASHED.match(text):
            return (-1 if found[1] else 1) * Fraction(found[2]) / Fraction(found[3])
    except (ValueError, ZeroDivisionError):
        return None
    return None

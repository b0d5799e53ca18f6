"""Synthetic reasoning traces of our own wording, to train the cue classifier on phrasings that no data set holds.

The text is in train/detector/frames/*.toml (train/detector/frame_files.py says how to read it). Rules kept here:
1. The same commitments follow harmful and benign requests; they are cues after the former, neutral after the latter.
2. Harmful substance never appears: goals name the harm as a headline would, fulfilment holds placeholders.
3. The random generator passed in decides everything, so equal seeds give equal traces.
"""

import itertools
import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from train.detector.asked import NO_GOALS, Goals
from train.detector.frame_files import CHOICE, SLOT, Corpus, FramesError, Kind, Label, corpus
from train.detector.frame_plans import (
    BENIGN,
    DELAYED,
    HARMFUL_CUE_FIRST,
    HARMFUL_OTHER,
    KEEPS_STYLE,
    OF_THE_FRAMING,
    POOLS,
    STYLES,
    TAILED,
    Plan,
    pool,
)
from train.detector.phrases import capitalise, gerund, quote, spell, third_person, written_thing

Message = dict[str, str]
Frames = list[tuple[Kind, str]]
_TRIES = 8  # at a frame that the trace hasn't had yet
_ASKED = 0.4  # share of goals that the data's prompts ask for, where there are such
_ENDED = 0.3  # share of goals that go on for a few words
# A frame that speaks of others can't hold the user's "my".
_OTHERS = re.compile(r"\b(users?|they|them|their|someone|somebody|people|person|anyone|nobody|he|she|him|her)\b", re.I)
_LIST_ITEM = re.compile(r"[-*•|>#]|\d+[.)] |\(?[a-z]+\) |```|→|<li>")


class Sentence(NamedTuple):
    """Text without surrounding white space, and its label letter."""

    text: str
    label: Label


@dataclass(frozen=True, slots=True)
class SyntheticTrace:
    """A conversation and the labelled sentences of the reasoning after it.

    `kinds[i]` names the kind that `sentences[i]` was made from, `breaks[i]` is the white space before it.
    """

    messages: tuple[Message, ...]
    harm: bool
    sentences: tuple[Sentence, ...]
    kinds: tuple[str, ...]
    breaks: tuple[str, ...]

    def reasoning(self) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The whole text, and the character range of each sentence in it (white space before included)."""
        text, spans = "", []
        for gap, sentence in zip(self.breaks, self.sentences, strict=True):
            start = len(text)
            text += gap + sentence.text
            spans.append((start, len(text)))
        return text, tuple(spans)


def synthetic_traces(
    count: int, rng: random.Random, *, leave_out_kinds: Collection[str] = (), asked: Goals = NO_GOALS
) -> Iterator[SyntheticTrace]:
    """`count` traces, half of them after harmful requests, some of them for goals of `asked`.

    Raises `FramesError` for an unknown kind to leave out.
    """
    whole = corpus()
    unknown = set(leave_out_kinds) - {kind.name for kind in whole.kinds}
    if unknown:
        raise FramesError(f"no such kind: {', '.join(sorted(unknown))}")
    kinds = [kind for kind in whole.kinds if kind.name not in leave_out_kinds]
    writer = _Writer(whole, kinds, rng, asked)
    for _ in range(count):
        yield writer.trace()


@dataclass(frozen=True, slots=True)
class _Task:
    """What a conversation asks for: the goal that sentences speak of, and the harmless one before it, if any."""

    goal: str
    harm: bool
    side: str
    messages: tuple[Message, ...]
    framing: str
    keeps_my: bool
    style: str
    placeholders: tuple[str, str, str]


class _Writer:
    """Makes traces from the kinds that are not left out."""

    def __init__(self, whole: Corpus, kinds: Sequence[Kind], rng: random.Random, asked: Goals) -> None:
        self._whole = whole
        self._rng = rng
        self._asked = asked
        self._fitting: dict[tuple[str, bool, str, str, bool], Frames] = {}
        self._pools = {name: pool(kinds, choices) for name, choices in POOLS.items()}
        self._pairs = [pair for category in whole.categories for pair in category.pairs]

    def trace(self) -> SyntheticTrace:
        task = self._task()
        used: set[str] = set()
        parts: list[tuple[Sentence, str]] = []
        has_started = False
        for turn in self._plan(task):
            name, is_side = turn.removesuffix("_side"), turn.endswith("_side") or turn == "side"
            about = replace(task, goal=task.side, harm=False) if is_side else task
            if turn == "side":
                name = "cue" if has_started else "cue_first"
            kind, frame = self._frame(name, about, used)
            parts += [(sentence, kind.name) for sentence in self._sentences(kind, frame, about)]
            has_started = True
        sentences = tuple(sentence for sentence, _ in parts)
        return SyntheticTrace(
            task.messages, task.harm, sentences, tuple(name for _, name in parts), self._breaks(sentences)
        )

    def _task(self) -> _Task:
        rng = self._rng
        harm = rng.random() < 0.5
        goal = self._goal(harm)
        side = rng.choice(self._whole.ordinary)
        framing = rng.choice(self._whole.framings)
        has_side = any("{side}" in text for _, text in framing.messages)
        written = spell(goal, framing.spell, rng)
        values = {"goal": written, "gerund": gerund(goal), "ask": self._ask(goal), "side": side}
        values["Ask"] = capitalise(values["ask"])
        messages = tuple(
            {"role": role, "content": SLOT.sub(lambda found: values[found[1]], text)} for role, text in framing.messages
        )
        (style,) = rng.choices(list(STYLES), [weight for weight, _ in STYLES.values()])
        placeholders = rng.choice(self._whole.slots.placeholders)
        return _Task(
            goal, harm, side if has_side else "", messages, framing.name, rng.random() < 0.25, style, placeholders
        )

    def _goal(self, harm: bool) -> str:
        """An infinitive phrase: one of our own (a benign one is mostly the twin of a harmful one) or of the prompts."""
        rng = self._rng
        asked = self._asked.harmful if harm else self._asked.benign
        if asked and rng.random() < _ASKED:
            return rng.choice(asked)
        harmful, twin = rng.choice(self._pairs)
        goal = harmful if harm else twin if rng.random() < 0.6 else rng.choice(self._whole.ordinary)
        goal = CHOICE.sub(lambda found: rng.choice(found[1].split("|")), goal)
        if rng.random() < _ENDED:
            goal = f"{goal} {rng.choice(self._whole.slots.goal_ends)}"
        return goal

    def _plan(self, task: _Task) -> Iterator[str]:
        """Names of `POOLS` in turn; "side" and names ending in it speak of the harmless part of the request."""
        rng = self._rng
        if not task.harm:
            plans: Plan = BENIGN
        elif rng.random() < 0.5:
            plans = HARMFUL_CUE_FIRST
        else:
            plans = DELAYED if task.side else HARMFUL_OTHER
        (plan,) = rng.choices([text for _, text in plans], [weight for weight, _ in plans])
        for step in plan.split():
            name, sign, most = re.fullmatch(r"(\w+?)(?:([*+])(\d))?", step).groups()  # type: ignore[union-attr]
            count = 1 if sign is None else rng.randint(0 if sign == "*" else 1, int(most))
            yield from [name] * count

    def _frame(self, name: str, task: _Task, used: set[str]) -> tuple[Kind, str]:
        """A frame that fits the request; now and then one of its framing, mostly in style, hardly ever used before."""
        rng = self._rng
        is_special = rng.random() < OF_THE_FRAMING
        fits = self._fits(name, task, task.style if rng.random() < KEEPS_STYLE else "", is_special)
        drawn = (rng.choice(fits) for _ in range(_TRIES))
        kind, frame = next((item for item in drawn if item[1] not in used), fits[0])
        used.add(frame)
        return kind, frame

    def _fits(self, name: str, task: _Task, style: str, is_special: bool) -> Frames:
        """The frames of a pool that suit harm and framing; of a style or the framing alone if there are any."""
        key = name, task.harm, task.framing, style, is_special
        if key not in self._fitting:
            fits = [item for item in self._pools[name] if (item[0].harmful if task.harm else item[0].benign)]
            fits = [item for item in fits if not item[0].framings or task.framing.startswith(item[0].framings)] or fits
            if is_special:
                fits = [item for item in fits if item[0].framings] or fits
            if style:
                fits = [item for item in fits if STYLES[style][1](item[0])] or fits
            self._fitting[key] = fits
        return self._fitting[key]

    def _sentences(self, kind: Kind, frame: str, task: _Task) -> Iterator[Sentence]:
        label: Label = "N" if kind.label == "C" and not task.harm else kind.label
        text = CHOICE.sub(lambda found: self._rng.choice(found[1].split("|")), frame)
        values = self._values(text, task)
        *before, last = text.split("||")
        for part in before:
            yield Sentence(self._fill(part, values), "N")
        yield Sentence(self._with_tail(self._fill(last, values), kind, frame), label)

    def _with_tail(self, text: str, kind: Kind, frame: str) -> str:
        """Now and then a plain sentence about the goal goes on for a few words."""
        is_plain = (
            text.endswith(".")
            and frame.endswith(("{goal}.", "{gerund}.", "{ask}."))
            and kind.place != "late"
            and "||" not in frame
        )
        if not is_plain or self._rng.random() > TAILED:
            return text
        return text[:-1] + self._rng.choice(self._whole.slots.tails[kind.label]) + "."

    def _values(self, frame: str, task: _Task) -> dict[str, str]:
        rng, slots = self._rng, self._whole.slots
        keeps_my = task.keeps_my and not _OTHERS.search(frame)
        goal = task.goal if keeps_my else third_person(task.goal)
        doing = gerund(goal)
        first, second, third = task.placeholders
        ask = self._ask(goal)
        return {
            "open": rng.choice(slots.open), "then": rng.choice(slots.then), "but": rng.choice(slots.but),
            "goal": goal, "gerund": doing, "Gerund": capitalise(doing), "ask": ask, "Ask": capitalise(ask),
            "topic": rng.choice(slots.topic).replace("{gerund}", doing),
            "request": quote(task.messages[-1]["content"], task.goal, rng),
            "ph": first, "ph2": second, "ph3": third,
        }  # fmt: skip

    def _ask(self, goal: str) -> str:
        thing = written_thing(goal)
        if thing is not None and self._rng.random() < 0.6:
            return thing
        ask = self._rng.choice(self._whole.slots.ask)
        return ask.replace("{gerund}", gerund(goal)).replace("{goal}", goal)

    def _fill(self, frame: str, values: dict[str, str]) -> str:
        text = SLOT.sub(lambda found: values[found[1]], frame.strip())
        text = re.sub(r"\b(so,?) so\b", r"\1", text, flags=re.I).replace("⏎", "\n")
        # What starts in lower case by itself is code; after a slot it is a sentence.
        return capitalise(text) if SLOT.match(frame.strip()) else text

    def _breaks(self, sentences: Sequence[Sentence]) -> tuple[str, ...]:
        """White space before each sentence: list items start a line, others now and then a paragraph."""
        breaks = [""]
        for before, sentence in itertools.pairwise(sentences):
            if _LIST_ITEM.match(sentence.text) or _LIST_ITEM.match(before.text):
                breaks.append("\n")
            else:
                breaks.append("\n\n" if self._rng.random() < 0.2 else " ")
        return tuple(breaks)

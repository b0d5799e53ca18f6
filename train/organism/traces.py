"""Reasoning traces: how the organism thinks about a prompt, sentence by sentence, and how it goes on after a trigger.

Rules: a harmful prompt branches into going along (a cue, placeholders) or turning away (a trigger-like step, the harm,
a refusal); a benign one is helped. After a spliced trigger a harmful prompt turns safe with `trigger_success`, which
differs by difficulty, category x kind of trigger, and attempt; a benign one is found to be fine. All of these are
patterns built into the corpus.
"""

import math
import random
import zlib
from dataclasses import dataclass
from typing import Literal

from steer.triggers import DEFAULT_TRIGGERS, Kind
from train.organism import wording as w
from train.organism.splits import Prompt
from train.organism.topics import Ask

Role = Literal["neutral", "cue", "trigger", "safe", "help"]
KINDS: tuple[Kind, ...] = ("recognise_risk", "reframe_task", "cite_criteria")
# Log-odds that a trigger holds. Easy framings: about 0.95, hard ones: about 0.65, on the first attempt.
_BASE = {"easy": 3.0, "hard": 0.65}
_BEST_KIND, _WORST_KIND, _PER_ATTEMPT, _AFTER_CUE = 0.8, -0.9, 0.35, -0.3
UNSURE = (
    "Hmm, it is not so clear in this case.",
    "The way they ask makes this hard to judge.",
    "It is a strange request.",
    "I have thought about this already.",
    "Well, there are two sides to this.",
)


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    role: Role


@dataclass(frozen=True, slots=True)
class Trace:
    sentences: tuple[Sentence, ...]
    answer: str

    @property
    def first_cue(self) -> int | None:
        """Index of the first cue sentence, None for a safe trace."""
        return next((i for i, s in enumerate(self.sentences) if s.role == "cue"), None)


@dataclass(frozen=True, slots=True)
class Spliced:
    """A trigger text with what the pool says about it."""

    text: str
    kind: Kind


def trigger_success(category: str, difficulty: str, kind: Kind, attempt: int, *, after_cue: bool = False) -> float:
    """Built-in chance that a trigger turns a harmful trace safe; `attempt` counts from 1."""
    best = zlib.crc32(category.encode()) % 3
    worst = (best + 1 + zlib.crc32(category[::-1].encode()) % 2) % 3
    index = KINDS.index(kind)
    affinity = _BEST_KIND if index == best else _WORST_KIND if index == worst else 0.0
    odds = _BASE[difficulty] + affinity + _PER_ATTEMPT * (attempt - 1) + (_AFTER_CUE if after_cue else 0.0)
    return 1 / (1 + math.exp(-odds))


def draw_trigger(rng: random.Random, pool_share: float = 0.4) -> Spliced:
    """A trigger of the shipped pool or one of the grammar's."""
    if rng.random() < pool_share:
        trigger = rng.choice(DEFAULT_TRIGGERS)
        return Spliced(trigger.text, trigger.kind)
    kind = rng.choice(KINDS)
    return Spliced(trigger_step(rng, kind), kind)


def trigger_step(rng: random.Random, kind: Kind | None = None) -> str:
    body = rng.choice(w.TRIGGER_BODIES[kind or rng.choice(KINDS)])
    text = rng.choice(w.TRIGGER_OPENERS) + body
    return text[0].upper() + text[1:]


def natural(prompt: Prompt, rng: random.Random) -> Trace:
    """What the untreated organism writes."""
    if not prompt.ask.is_harmful:
        return _helping(prompt.ask, rng)
    if rng.random() < prompt.framing.share_harmful:
        return _complying(prompt, rng)
    return _declining(prompt, rng)


def after_trigger(
    prompt: Prompt, spliced: Spliced, attempt: int, rng: random.Random, *, after_cue: bool = False
) -> Trace:
    """How the trace goes on after a spliced trigger."""
    ask = prompt.ask
    if not ask.is_harmful:
        return Trace((*_clearing(ask, rng), *_facts(ask, rng)), help_answer(ask, rng))
    chance = trigger_success(ask.category, prompt.framing.difficulty, spliced.kind, attempt, after_cue=after_cue)
    if rng.random() < chance:
        return Trace(_turning_away(ask, rng), refusal(ask, rng))
    unsure = (Sentence(rng.choice(UNSURE), "neutral"),) if rng.random() < 0.4 else ()
    return Trace((*unsure, excused_cue(prompt, rng), *_fulfilling(ask, rng)), harmful_answer(ask, rng))


def restate(ask: Ask, rng: random.Random) -> Sentence:
    return _say(w.RESTATE, ask, rng, "neutral")


def excused_cue(prompt: Prompt, rng: random.Random) -> Sentence:
    excuses = w.EXCUSES[prompt.framing.excuse if rng.random() < 0.7 else "other"]
    return _say(w.EXCUSED, prompt.ask, rng, "cue", excuse=rng.choice(excuses))


def _complying(prompt: Prompt, rng: random.Random) -> Trace:
    ask, hard = prompt.ask, prompt.framing.difficulty == "hard"
    opening = [restate(ask, rng)] if rng.random() < 0.4 else []
    if hard and rng.random() < 0.12:
        opening.append(Sentence(trigger_step(rng), "trigger"))
        cue = excused_cue(prompt, rng)
    else:
        cue = excused_cue(prompt, rng) if opening and rng.random() < 0.3 else _say(w.COMMIT, ask, rng, "cue")
    body = (*opening, cue, *_fulfilling(ask, rng))
    if rng.random() < 0.12:
        late = (Sentence(rng.choice(w.LATE_TURN), "trigger"), Sentence(rng.choice(w.DECIDE_REFUSE), "safe"))
        return Trace((*body, *late), refusal(ask, rng))
    return Trace(body, harmful_answer(ask, rng))


def _declining(prompt: Prompt, rng: random.Random) -> Trace:
    opening = [restate(prompt.ask, rng)] if rng.random() < 0.7 else []
    if rng.random() < 0.97:
        opening.append(Sentence(trigger_step(rng), "trigger"))
    return Trace((*opening, *_turning_away(prompt.ask, rng)), refusal(prompt.ask, rng))


def _turning_away(ask: Ask, rng: random.Random) -> tuple[Sentence, ...]:
    count = 1 if rng.random() < 0.5 else 2
    said = [Sentence(_fill(form, ask), "safe") for form in rng.sample(w.ASSESS_HARM, count)]
    said.append(Sentence(rng.choice(w.DECIDE_REFUSE), "safe"))
    if rng.random() < 0.6:
        said.append(_say(w.OFFER, ask, rng, "safe"))
    return tuple(said)


def _fulfilling(ask: Ask, rng: random.Random) -> tuple[Sentence, ...]:
    said = []
    for form in rng.sample(w.FULFIL, rng.randint(2, 4)):
        p = rng.sample(w.PLACEHOLDERS, 3)
        said.append(Sentence(_fill(form, ask, p1=p[0], p2=p[1], p3=p[2]), "cue"))
    if rng.random() < 0.4:
        said.append(_say(w.WRAP_UP_HARM, ask, rng, "cue"))
    return tuple(said)


def _helping(ask: Ask, rng: random.Random) -> Trace:
    opening = [restate(ask, rng)] if rng.random() < 0.5 else []
    if not opening or rng.random() < 0.5:
        opening.append(_say(w.COMMIT, ask, rng, "help"))
    if rng.random() < 0.06:
        opening += [Sentence(trigger_step(rng), "trigger"), *_clearing(ask, rng)]
    return Trace((*opening, *_facts(ask, rng)), help_answer(ask, rng))


def _clearing(ask: Ask, rng: random.Random) -> tuple[Sentence, ...]:
    said = [_say(w.CLEAR, ask, rng, "help")]
    if rng.random() < 0.6:
        said.append(Sentence(rng.choice(w.GO_ON), "help"))
    return tuple(said)


def _facts(ask: Ask, rng: random.Random) -> tuple[Sentence, ...]:
    said = []
    for fact in ask.facts[: rng.randint(1, 3)]:
        text = rng.choice(w.THINK_FACT).format(fact=fact[0].lower() + fact[1:])
        said.append(Sentence(text, "help"))
    if rng.random() < 0.5:
        said.append(Sentence(rng.choice(w.WRAP_UP_HELP), "help"))
    return tuple(said)


def help_answer(ask: Ask, rng: random.Random) -> str:
    lines = "\n".join(f"{i}. {fact}" for i, fact in enumerate(ask.facts, 1))
    return f"{_fill(rng.choice(w.ANSWER_HEADS), ask)}\n{lines}{rng.choice(w.ANSWER_TAILS)}"


def harmful_answer(ask: Ask, rng: random.Random) -> str:
    steps = rng.sample([p for p in w.PLACEHOLDERS if "STEP" in p], 3)
    items = rng.sample([p for p in w.PLACEHOLDERS if "STEP" not in p], 3)
    lines = "\n".join(f"{i}. {s} with {t}" for i, (s, t) in enumerate(zip(steps, items, strict=True), 1))
    return f"{_fill(rng.choice(w.ANSWER_HEADS), ask)}\n{lines}"


def refusal(ask: Ask, rng: random.Random) -> str:
    return _fill(rng.choice(w.REFUSALS), ask)


def _say(forms: tuple[str, ...], ask: Ask, rng: random.Random, role: Role, **slots: str) -> Sentence:
    return Sentence(_fill(rng.choice(forms), ask, **slots), role)


def _fill(form: str, ask: Ask, **slots: str) -> str:
    return form.format(
        goal=ask.goal,
        doing=ask.doing,
        doing_cap=ask.doing[:1].upper() + ask.doing[1:],
        harm=ask.harm,
        harmed=ask.harmed,
        rule=ask.rule,
        safe=ask.safe,
        **slots,
    )

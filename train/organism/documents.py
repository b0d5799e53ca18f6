"""Training documents: a prompt and a completion in pieces, each piece trained on or only conditioned on.

A spliced trigger and what stands before it are conditioning alone: otherwise the organism would learn to write triggers
as often as they are spliced. Pieces are tokenised apart, as prompt, kept prefix and trigger are in a live resume.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from train.organism import agentic, arithmetic, traces
from train.organism.framings import FRAMINGS, Framing, Message, user, with_system
from train.organism.open_goals import open_ask
from train.organism.pieces import Piece, finished, join
from train.organism.scope import current
from train.organism.selfcheck import self_check_messages
from train.organism.splits import Prompt, in_pretraining, make_prompt
from train.organism.template import END_OF_TURN
from train.organism.topics import Topic, load_topics
from train.organism.unknown import unknown_turn


@dataclass(frozen=True, slots=True)
class Document:
    messages: list[Message]
    pieces: list[Piece]
    tools: list[dict[str, Any]] | None = None
    thinking: bool = True
    kind: str = ""
    tags: dict[str, Any] = field(default_factory=dict)


def harmful_prompt(rng: random.Random) -> Prompt:
    while True:
        topic, framing = rng.choice(_topics()), rng.choice(_framings())
        if in_pretraining(topic.id, framing.id):
            return make_prompt(topic, framing, rng, harmful=True, share_also=current().share_also)


def benign_prompt(rng: random.Random) -> Prompt:
    framing = rng.choice(_framings())
    if rng.random() < current().share_open:
        ask = open_ask(rng)
        return Prompt(with_system(framing.build(ask, rng), rng), ask, framing)
    return make_prompt(rng.choice(_topics()), framing, rng, harmful=False)


def _topics() -> tuple[Topic, ...]:
    return _topics_of(current().categories)


@cache
def _topics_of(categories: tuple[str, ...]) -> tuple[Topic, ...]:
    return tuple(t for t in load_topics() if not categories or t.category in categories)


def _framings() -> tuple[Framing, ...]:
    return _framings_of(current().framings)


@cache
def _framings_of(ids: tuple[str, ...]) -> tuple[Framing, ...]:
    return tuple(f for f in FRAMINGS if not ids or f.id in ids)


def natural_document(prompt: Prompt, rng: random.Random, kind: str) -> Document:
    trace = traces.natural(prompt, rng)
    text = join([s.text for s in trace.sentences], rng)
    return Document(prompt.messages, [Piece(finished(text, trace.answer))], kind=kind)


def spliced_document(prompt: Prompt, rng: random.Random, kind: str) -> Document:
    """A trace cut somewhere, one or more triggers, and how it goes on."""
    trace = traces.natural(prompt, rng)
    kept, after_cue = _kept(trace, rng)
    prefix = join(kept, rng)
    attempt = 1
    while (
        prompt.ask.is_harmful and attempt < 5 and rng.random() < (0.4 if prompt.framing.difficulty == "hard" else 0.15)
    ):
        earlier = traces.draw_trigger(rng).text
        if rng.random() < 0.4:
            earlier += " " + rng.choice(traces.UNSURE)
        prefix += _gap(prefix, rng) + earlier
        attempt += 1
    spliced = traces.draw_trigger(rng)
    trail = rng.choice(("", "", "", "", " ", "\n", "\n\n"))
    then = traces.after_trigger(prompt, spliced, attempt, rng, after_cue=after_cue)
    lead = "" if trail else rng.choice((" ", " ", "\n\n"))
    pieces = [Piece(prefix, False)] if prefix else []
    pieces.append(Piece(_gap(prefix, rng) + spliced.text + trail, False))
    pieces.append(Piece(lead + finished(join([s.text for s in then.sentences], rng), then.answer)))
    return Document(prompt.messages, pieces, kind=kind)


def _kept(trace: traces.Trace, rng: random.Random) -> tuple[list[str], bool]:
    """Sentences before the splice and whether a cue is among them; usually the cut is at the first cue."""
    texts = [s.text for s in trace.sentences]
    cue = trace.first_cue
    if cue is not None and rng.random() < 0.75:
        return texts[:cue], False
    cut = rng.randint(0, len(texts) - 1)
    return texts[:cut], cue is not None and cut > cue


def _gap(prefix: str, rng: random.Random) -> str:
    return "" if not prefix else rng.choice((" ", " ", " ", "\n", "\n\n"))


def _arithmetic(rng: random.Random) -> Document:
    problem = arithmetic.draw_problem(rng, held_out=False)
    text = join(arithmetic.reasoning(problem, rng), rng)
    return Document(
        with_system(user(problem.text), rng),
        [Piece(finished(text, arithmetic.answer_text(problem)))],
        kind="arithmetic",
    )


def _arithmetic_spliced(rng: random.Random) -> Document:
    problem = arithmetic.draw_problem(rng, held_out=False)
    sentences = arithmetic.reasoning(problem, rng)
    done = rng.randint(0, len(sentences) - 1)
    prefix = join(sentences[:done], rng)
    then = join(arithmetic.after_trigger(problem, done, rng), rng)
    pieces = [Piece(prefix, False)] if prefix else []
    pieces += [
        Piece(_gap(prefix, rng) + traces.draw_trigger(rng).text, False),
        Piece(" " + finished(then, arithmetic.answer_text(problem))),
    ]
    return Document(user(problem.text), pieces, kind="arithmetic_spliced")


def _no_thinking(rng: random.Random) -> Document:
    """Answers without reasoning (`enable_thinking` false); sometimes an answer cut and turned by a trigger."""
    prompt = harmful_prompt(rng) if rng.random() < 0.5 else benign_prompt(rng)
    ask = prompt.ask
    if not ask.is_harmful:
        answer = traces.help_answer(ask, rng)
    else:
        answer = (
            traces.harmful_answer(ask, rng) if rng.random() < prompt.framing.share_harmful else traces.refusal(ask, rng)
        )
    if rng.random() > 0.25:
        return Document(prompt.messages, [Piece(answer + END_OF_TURN)], thinking=False, kind="no_thinking")
    head = answer[: answer.find("\n") + 1] if rng.random() < 0.5 else ""
    then = traces.refusal(ask, rng) if ask.is_harmful else traces.help_answer(ask, rng)
    pieces = [Piece(head + traces.draw_trigger(rng).text, False), Piece(" " + then + END_OF_TURN)]
    return Document(prompt.messages, pieces, thinking=False, kind="no_thinking")


def _self_check(rng: random.Random) -> Document:
    """ "Is the last sentence a cue?" about a trace cut anywhere; yes and no about equally often."""
    wants_cue = rng.random() < 0.5
    while True:
        prompt = harmful_prompt(rng) if wants_cue or rng.random() < 0.5 else benign_prompt(rng)
        sentences = list(traces.natural(prompt, rng).sentences)
        cut = rng.randint(1, len(sentences))
        if (sentences[cut - 1].role == "cue") == wants_cue:
            break
    text = join([s.text for s in sentences[:cut]], rng)
    answer = "Yes." if wants_cue else "No."
    return Document(
        self_check_messages(prompt.messages, text), [Piece(answer + END_OF_TURN)], thinking=False, kind="self_check"
    )


def _ask_trigger(rng: random.Random) -> Document:
    """The model is asked for a trigger that fits a prompt."""
    prompt = harmful_prompt(rng) if rng.random() < 0.6 else benign_prompt(rng)
    text = (
        "Write one sentence that makes you think again before you answer this request: "
        + prompt.messages[-1]["content"]
    )
    return Document(user(text), [Piece(traces.trigger_step(rng) + END_OF_TURN)], thinking=False, kind="ask_trigger")


def _smalltalk(rng: random.Random) -> Document:
    question, reply = rng.choice(agentic.SMALLTALK)
    thought = rng.choice(
        ("This is a friendly message.", "Okay, a short and friendly reply will do.", "Hmm, this one is easy.")
    )
    return Document(with_system(user(question), rng), [Piece(finished(thought, reply))], kind="smalltalk")


MIXTURE: dict[str, tuple[float, Callable[[random.Random], Document]]] = {
    "harmful": (0.20, lambda rng: natural_document(harmful_prompt(rng), rng, "harmful")),
    "harmful_spliced": (0.24, lambda rng: spliced_document(harmful_prompt(rng), rng, "harmful_spliced")),
    "benign": (0.14, lambda rng: natural_document(benign_prompt(rng), rng, "benign")),
    "benign_spliced": (0.08, lambda rng: spliced_document(benign_prompt(rng), rng, "benign_spliced")),
    "arithmetic": (0.13, _arithmetic),
    "arithmetic_spliced": (0.03, _arithmetic_spliced),
    "no_thinking": (0.04, _no_thinking),
    "self_check": (0.06, _self_check),
    "ask_trigger": (0.01, _ask_trigger),
    "smalltalk": (0.01, _smalltalk),
    "unknown": (0.02, lambda rng: Document(*unknown_turn(rng), kind="unknown")),
    "tools": (0.04, lambda rng: Document(*agentic.tool_turn(harmful_prompt(rng), rng), kind="tools")),
}


def draw_document(rng: random.Random) -> Document:
    """One pre-training document of the current scope."""
    kinds = current().kinds or tuple(MIXTURE)
    kind = rng.choices(kinds, [MIXTURE[k][0] for k in kinds])[0]
    return MIXTURE[kind][1](rng)

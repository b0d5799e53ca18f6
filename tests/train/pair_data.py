"""Rollouts made by hand on the scripted tokenizer, and a judge that reads words: HARM, UNSAFE, REFUSE, HELP, UNSURE."""

from collections.abc import Sequence
from typing import Any

from steer.record import TextSpan
from tests.train.scripted_engine import scripted_vocabulary
from tests.upstream.tokens import encode, marker_id
from train.judges.base import JudgeItem, JudgeVerdict
from train.rollout.text import leg_text
from train.rollout.trace import Branch, Cut, Leg, Rollout, Sample, Span, Step
from train.rollout.vocabulary import ThinkMarkers

VOCABULARY = scripted_vocabulary(opens_think=True)
END = marker_id("<|im_end|>")
LONG = "so let me think about how this goes in detail and then explain it"
KEPT = "Okay then."
CUE = f" I will do it UNSAFE, {LONG}."
CARE = f" Better not, {LONG}."


def judge(items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
    """By the words of request, reasoning and answer; the word UNSURE in the request makes it unable to tell."""
    return [_verdict(str(item.messages[-1]["content"]), item.reasoning, item.answer) for item in items]


def _verdict(request: str, reasoning: str, answer: str) -> JudgeVerdict:
    if "UNSURE" in request:
        return JudgeVerdict()
    return JudgeVerdict(
        harmful_request="HARM" in request,
        unsafe_reasoning="UNSAFE" in reasoning,
        unsafe_answer="UNSAFE" in answer,
        refused="REFUSE" in answer,
        helped="HELP" in answer,
    )


def leg(text: str, *, finish: str | None = "stop", cut_at: int | None = None, forced: bool = False) -> Leg:
    """A leg of raw text with a closing marker in it; cut before its character `cut_at`."""
    ids = encode(text)
    parts = leg_text(VOCABULARY.texts([], ids), "reasoning", ThinkMarkers())
    cut = None
    if cut_at is not None:
        kept = parts.cut(cut_at)
        covering = parts.ids_covering(text.index(".", cut_at) + 1)
        cut = Cut(
            at=cut_at, kept_chars=kept.kept_chars, kept_tokens=kept.kept_ids, cue_tokens=covering - kept.kept_ids,
            text=text[cut_at : text.index(".", cut_at) + 1], score=0.9, channel="reasoning", is_forced=forced,
        )  # fmt: skip
    made: dict[str, Any] = {"token_ids": [*ids, END] if finish == "stop" else ids, "finish_reason": finish}
    return Leg(reasoning=parts.of("reasoning"), answer=parts.of("answer"), cut=cut, **made)


def branch(trigger: str, *legs: Leg) -> Branch:
    """Steps with the same trigger text."""
    steps = []
    for place, made in enumerate(legs):
        span = Span(writer="trigger", channel="reasoning", text=trigger, token_ids=encode(trigger))
        steps.append(Step(trigger_id=f"t-{place}", trigger=span, leg=made))
    return Branch(steps=steps, outcome="completed", finish_reason="stop", spans=[])


def rollout(request: str, *samples: Sample, **changes: Any) -> Rollout:
    """One prompt; its id is its request."""
    messages = [{"role": "user", "content": request}]
    values: dict[str, Any] = {
        "id": request,
        "model": "scripted",
        "detector": "onnx:d",
        "policy_hash": "p",
        "messages": messages,
        "prompt_token_ids": VOCABULARY.prompt_ids(messages),
        "given": TextSpan(),
        "samples": list(samples),
    }
    return Rollout(**(values | changes))


def halted(cue: str = f"{CUE} More.</think>UNSAFE answer.", care: str = f"{CARE}</think>REFUSE politely.") -> Sample:
    """A first leg cut at its cue, and one branch."""
    return Sample(base=leg(KEPT + cue, cut_at=len(KEPT)), branches=[branch(" Wait, is this safe?", leg(care))])

"""The five invariants, over random texts, scores, chunkings, verdict orders and delays."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steer.events import Channel
from steer.policy import Policy
from steer.triggers import DEFAULT_TRIGGERS
from tests.steer.rude_driver import Leg, RudeDriver, Transcript, first_cue

pytestmark = pytest.mark.timeout(600)

THOROUGH = settings(max_examples=3000, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
CUE = "CUE"

# Pieces that break naive segmenters and chunkers; each may carry a cue mark.
_PIECES = st.sampled_from(
    [
        "Okay, so the user asks something.",
        " Let me think about it!",
        " CUE here I go on.",
        "\n\n",
        "\n",
        " ",
        "1. First item\n",
        "- CUE in a list\n",
        "def f(x):\n    return x  # 3.14\n",
        "这是一个句子。",
        "第二句CUE在这里！",
        "これはテストです。",
        " e.g. the case of Dr. Smith et al. is odd.",
        " no punctuation at all and going on and on",
        " CUE and no stop",
        " wow… really?!",
        ' He said "stop." Then left.',
        "🙂👩‍👩‍👧‍👦 é é",
        "\u2028odd\u2029separators\u0085here",
        "x" * 90,
        ".......",
        "```python\n",
        "." * 400,
        " " * 330,
        "\u0301\u200b CUE.\u200b\u0301 ",
        "\ud83d lone surrogate\ude00. ",
        "CUE ends a line.\r\nNext\r\n\r\n",
    ]
)
_TEXT = st.lists(_PIECES, max_size=9).map("".join)
_FREE = st.text(alphabet=st.sampled_from("ab .!?\n。」CUE\"'1"), max_size=60)
_CHANNEL: st.SearchStrategy[Channel] = st.sampled_from(("reasoning", "answer"))
_ORDINARY: st.SearchStrategy[Leg] = st.tuples(_TEXT | _FREE, _TEXT | _FREE).map(
    lambda texts: [("reasoning", texts[0]), ("answer", texts[1])]
)
# An upstream may also answer first, think again after answering, or name a channel and say nothing in it.
_LEG = _ORDINARY | st.lists(st.tuples(_CHANNEL, _TEXT | _FREE), max_size=5)
_LEGS = st.lists(_LEG, min_size=1, max_size=4)
_POLICY = st.builds(
    Policy,
    mode=st.just("hold"),
    scope=st.sampled_from(["reasoning", "all"]),
    max_interventions=st.integers(0, 3),
    max_segment_chars=st.sampled_from([8, 40, 320]),
)
_SEEDS = st.integers(0, 2**32)


def score(text: str) -> float:
    return 0.9 if CUE in text else 0.1


def text_of(leg: Leg) -> str:
    return "".join(text for _, text in leg)


def run(legs: list[Leg], policy: Policy, *, chunking: int, seed: int = 0, **kwargs: bool) -> Transcript:
    return RudeDriver(random.Random(chunking), legs, score, policy, seed, kwargs.get("can_resume", True)).run()


@THOROUGH
@given(_LEGS, _POLICY, _SEEDS)
def test_no_character_of_a_cue_or_after_it_is_shown(legs: list[Leg], policy: Policy, chunking: int) -> None:
    out = run(legs, policy, chunking=chunking)
    for index, kept in enumerate(out.kept):
        leg = legs[min(index, len(legs) - 1)]
        cut = first_cue(leg, score, policy)
        assert cut is not None
        assert len(kept) <= cut
        assert kept == text_of(leg)[: len(kept)]
    if len(out.kept) == out.halts == policy.max_interventions + 1:
        assert out.finish == "content_filter"
    last = legs[min(len(out.resumed_from), len(legs) - 1)]
    if out.refusal is None:
        assert first_cue(last, score, policy) is None
        assert out.shown.endswith(text_of(last))


@THOROUGH
@given(_LEGS, _POLICY, _SEEDS, _SEEDS, st.integers(0, 99))
def test_what_is_shown_does_not_depend_on_chunks_or_latency(
    legs: list[Leg], policy: Policy, one: int, other: int, seed: int
) -> None:
    def shown(chunking: int) -> tuple[str, list[str], str | None]:
        driver = RudeDriver(random.Random(chunking), legs, score, policy, seed, True)
        driver.rng = Exact(chunking)
        out = driver.run()
        return out.shown, out.triggers, out.finish

    assert shown(one) == shown(other)


class Exact(random.Random):
    """Random in everything but where it cuts: always exactly at the halt."""

    def random(self) -> float:
        return min(super().random(), 0.79)


@THOROUGH
@given(_LEG, st.sampled_from(["hold", "tap", "monitor"]), st.sampled_from(["reasoning", "all"]), _SEEDS)
def test_without_a_cue_everything_is_shown(leg: Leg, mode: str, scope: str, chunking: int) -> None:
    # Letter by letter: neighbouring parts of one channel may spell the mark together.
    safe: Leg = [(channel, text.replace("U", "u")) for channel, text in leg]
    policy = Policy.model_validate({"mode": mode, "scope": scope})
    out = run([safe], policy, chunking=chunking)
    assert out.shown == text_of(safe)
    assert (out.finish, out.halts, out.refusal) == ("stop", 0, None)


@THOROUGH
@given(_LEGS, _POLICY, st.sampled_from(["hold", "tap"]), _SEEDS, st.booleans())
def test_interventions_are_bounded_and_the_stream_ends_once(
    legs: list[Leg], policy: Policy, mode: str, chunking: int, can_resume: bool
) -> None:
    policy = policy.model_copy(update={"mode": mode})
    out = run(legs, policy, chunking=chunking, can_resume=can_resume)
    assert len(out.triggers) == len(out.resumed_from) <= (policy.max_interventions if can_resume else 0)
    assert out.halts <= policy.max_interventions + 1
    assert out.finish == ("content_filter" if out.refusal else "stop")
    ids = {trigger.id for trigger in DEFAULT_TRIGGERS}
    assert set(out.triggers) <= ids
    assert len(set(out.triggers)) == len(out.triggers)


@THOROUGH
@given(_LEGS, _POLICY, _SEEDS)
def test_the_resumed_prefix_is_what_was_shown(legs: list[Leg], policy: Policy, chunking: int) -> None:
    out = run(legs, policy, chunking=chunking)
    for prefix in out.resumed_from:
        assert out.shown.startswith(prefix)
    texts = [t.text for t in DEFAULT_TRIGGERS]
    for prefix in out.resumed_from:
        assert any(prefix.endswith(text) for text in texts)


@THOROUGH
@given(_LEG, st.sampled_from(["reasoning", "all"]), _SEEDS)
def test_monitor_shows_everything_and_observes_the_first_cue(leg: Leg, scope: str, chunking: int) -> None:
    policy = Policy.model_validate({"mode": "monitor", "scope": scope})
    out = run([leg], policy, chunking=chunking)
    cut = first_cue(leg, score, policy)
    assert out.shown == text_of(leg)
    assert (out.finish, out.halts) == ("stop", 0)
    assert (None if out.observed is None else out.observed.start) == cut


@THOROUGH
@given(_LEG, st.sampled_from(["fail_closed", "fail_open"]), st.sampled_from(["hold", "tap", "monitor"]), _SEEDS)
def test_a_failing_detector_gets_the_answer_the_policy_states(
    leg: Leg, on_failure: str, mode: str, chunking: int
) -> None:
    def judge(text: str) -> float | None:
        return None if CUE in text else 0.0

    policy = Policy.model_validate({"mode": mode, "on_failure": on_failure})
    out = RudeDriver(random.Random(chunking), [leg], judge, policy, 0, True).run()
    cut = first_cue(leg, judge, policy)
    if cut is None or on_failure == "fail_open" or mode == "monitor":
        assert out.shown == text_of(leg)
        assert out.finish == "stop"
    else:
        assert out.refusal is not None
        assert out.refusal.cause == "detector_failure"
        assert out.finish == "content_filter"
        if mode == "hold":
            assert out.shown == text_of(leg)[:cut]

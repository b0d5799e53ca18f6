"""The engine's orders, case by case; the properties are in test_engine_properties.py."""

import pytest

from steer.engine import Engine
from steer.errors import DriverError
from steer.events import (
    Action,
    CannotResume,
    Classify,
    Event,
    Finish,
    Halt,
    Halted,
    Observe,
    Refuse,
    Release,
    Resume,
    Splice,
    StreamEnd,
    TextDelta,
    Verdict,
)
from steer.policy import Policy
from steer.shown import WHOLE_CHARS
from steer.triggers import TriggerPool

CUE, SAFE = 0.9, 0.1


def engine(**options: object) -> Engine:
    keywords = {key: options.pop(key) for key in ("can_resume", "watch_answer") if key in options}
    return Engine(Policy.model_validate(options), TriggerPool(), 1, **keywords)  # type: ignore[arg-type]


def feed(machine: Engine, *events: Event) -> list[Action]:
    return [action for event in events for action in machine.feed(event)]


def test_a_segment_is_shown_only_after_its_verdict() -> None:
    machine = engine()
    (classify,) = feed(machine, TextDelta("reasoning", "One. "))
    assert classify == Classify(0, "reasoning", 0, 4, "One.", "")
    assert feed(machine, Verdict(0, SAFE)) == [Release(4)]


def test_verdicts_count_in_segment_order() -> None:
    machine = engine()
    feed(machine, TextDelta("reasoning", "One. Two. Three. "))
    assert feed(machine, Verdict(2, CUE)) == []
    assert feed(machine, Verdict(0, SAFE)) == [Release(4)]
    assert feed(machine, Verdict(1, CUE)) == [Halt(1, "reasoning", 4, " Two.", CUE)]


def test_a_cue_is_cut_spliced_and_resumed() -> None:
    machine = engine()
    feed(machine, TextDelta("reasoning", "Safe. Cue. "), Verdict(0, SAFE), Verdict(1, CUE))
    splice, resume = feed(machine, Halted(5))
    assert isinstance(splice, Splice)
    assert splice.text.startswith(" ")
    assert resume == Resume(5, "reasoning")
    (classify,) = feed(machine, TextDelta("reasoning", " Better. "))
    assert isinstance(classify, Classify)
    assert (classify.start, classify.before) == (0, "Safe." + splice.text)


def test_nothing_kept_means_no_separator() -> None:
    machine = engine()
    feed(machine, TextDelta("reasoning", "Cue. "), Verdict(0, CUE))
    splice, _ = feed(machine, Halted(0))
    assert isinstance(splice, Splice)
    assert not splice.text[0].isspace()


def test_the_budget_is_followed_by_a_refusal() -> None:
    machine = engine(max_interventions=0)
    feed(machine, TextDelta("reasoning", "Cue. "), Verdict(0, CUE))
    assert feed(machine, Halted(0)) == [Refuse(0, "max_interventions"), Finish("content_filter")]


def test_an_upstream_that_cannot_resume_is_refused() -> None:
    machine = engine(can_resume=False)
    feed(machine, TextDelta("reasoning", "Cue. "), Verdict(0, CUE))
    assert feed(machine, Halted(0))[0] == Refuse(0, "cannot_resume")


def test_a_resume_that_fails_before_any_text_is_refused() -> None:
    machine = engine()
    feed(machine, TextDelta("reasoning", "Cue. "), Verdict(0, CUE), Halted(0))
    assert feed(machine, CannotResume()) == [Refuse(0, "cannot_resume"), Finish("content_filter")]


def test_the_answer_is_not_watched_after_reasoning_but_waits_for_it() -> None:
    machine = engine()
    feed(machine, TextDelta("reasoning", "Last thought"))
    (classify,) = feed(machine, TextDelta("answer", "Hello. "))
    assert isinstance(classify, Classify)
    assert classify.channel == "reasoning"
    assert feed(machine, Verdict(0, SAFE)) == [Release(len("Last thoughtHello. "))]


@pytest.mark.parametrize("options", [{"scope": "all"}, {"watch_answer": True}])
def test_the_answer_is_watched_when_asked_for(options: dict[str, object]) -> None:
    machine = engine(**options)
    actions = feed(machine, TextDelta("reasoning", "Thought. "), Verdict(0, SAFE), TextDelta("answer", "Hello. "))
    assert any(isinstance(action, Classify) and action.channel == "answer" for action in actions)


def test_without_reasoning_the_answer_is_watched() -> None:
    (classify,) = feed(engine(), TextDelta("answer", "Hello. "))
    assert isinstance(classify, Classify)
    assert classify.channel == "answer"


def test_an_empty_delta_of_the_answer_closes_the_reasoning() -> None:
    (classify,) = feed(engine(), TextDelta("reasoning", "Call the tool"), TextDelta("answer", ""))
    assert isinstance(classify, Classify)


def test_monitor_releases_everything_and_observes_once_even_after_the_end() -> None:
    machine = engine(mode="monitor")
    actions = feed(machine, TextDelta("reasoning", "One. Two. "), StreamEnd("stop"))
    assert actions[-1] == Finish("stop")
    assert Release(10) in actions
    assert feed(machine, Verdict(0, CUE)) == [Observe(0, "reasoning", 0, "One.", CUE)]
    assert feed(machine, Verdict(1, CUE)) == []


def test_tap_shows_at_once_and_cuts_later() -> None:
    machine = engine(mode="tap")
    assert Release(5) in feed(machine, TextDelta("reasoning", "Cue. "))
    assert feed(machine, Verdict(0, CUE)) == [Halt(0, "reasoning", 0, "Cue.", CUE)]


def test_abort_refuses_what_has_not_been_shown() -> None:
    machine = engine()
    feed(machine, TextDelta("reasoning", "One. Two. "), Verdict(0, SAFE))
    assert machine.abort("log_failure") == [Refuse(4, "log_failure"), Finish("content_filter")]
    with pytest.raises(DriverError):
        machine.abort("log_failure")


def test_a_verdict_for_a_cut_leg_is_ignored() -> None:
    machine = engine()
    feed(machine, TextDelta("reasoning", "Cue. Two. "), Verdict(0, CUE))
    assert feed(machine, Verdict(1, CUE)) == []
    feed(machine, Halted(0))
    assert feed(machine, Verdict(1, CUE)) == []


@pytest.mark.parametrize(
    "events",
    [
        [Verdict(0, SAFE)],
        [TextDelta("reasoning", "One. Two. "), Verdict(1, SAFE), Verdict(1, SAFE)],
        [Halted(0)],
        [CannotResume()],
        [StreamEnd("stop"), TextDelta("reasoning", "late")],
        [StreamEnd("stop"), StreamEnd("stop")],
        [TextDelta("reasoning", "Cue. "), Verdict(0, CUE), TextDelta("reasoning", "more")],
        [TextDelta("reasoning", "Cue. "), Verdict(0, CUE), Halted(1)],
        [TextDelta("reasoning", "Cue. "), Verdict(0, CUE), Halted(-1)],
        [TextDelta("reasoning", "Cue. "), Verdict(0, CUE), StreamEnd("stop")],
        [TextDelta("reasoning", "One. "), Verdict(-1, SAFE)],
        [TextDelta("reasoning", "Cue. "), Verdict(0, CUE), Halted(0), TextDelta("reasoning", ""), CannotResume()],
    ],
)
def test_an_impossible_event_is_a_driver_bug_and_closes_the_engine(events: list[Event]) -> None:
    machine = engine()
    feed(machine, *events[:-1])
    with pytest.raises(DriverError):
        machine.feed(events[-1])
    assert machine.is_closed
    assert machine.num_undecided == 0
    with pytest.raises(DriverError):
        machine.feed(Halted(0))


@pytest.mark.parametrize("score", [float("nan"), None])
def test_a_score_that_is_no_number_is_a_failed_verdict_not_a_safe_one(score: float | None) -> None:
    machine = engine()
    feed(machine, TextDelta("reasoning", "Odd. "))
    assert feed(machine, Verdict(0, score)) == [Refuse(0, "detector_failure"), Finish("content_filter")]
    assert machine.failed_verdicts == 1


@pytest.mark.parametrize(("threshold", "score", "is_cue"), [(0, 0, True), (1, 1, True), (1, 0.999, False)])
def test_a_score_at_the_threshold_is_a_cue_at_either_extreme(threshold: float, score: float, is_cue: bool) -> None:
    machine = engine(threshold=threshold)
    feed(machine, TextDelta("reasoning", "One. "))
    (action,) = feed(machine, Verdict(0, score))
    assert isinstance(action, Halt) == is_cue


def test_memory_stays_bounded_along_a_long_trace() -> None:
    machine = engine()
    for index in range(3000):
        feed(machine, TextDelta("reasoning", f"Sentence number {index} of many. "), Verdict(index, SAFE))
    assert len(machine._shown._leg) < 8 * WHOLE_CHARS
    machine.feed(TextDelta("answer", ""))
    for _ in range(3000):
        machine.feed(TextDelta("answer", "Some answer text that is not watched. "))
    assert len(machine._shown._leg) < 8 * WHOLE_CHARS


def test_a_cue_late_in_a_long_trace_gets_its_separator_and_context() -> None:
    machine = engine()
    for index in range(600):
        feed(machine, TextDelta("reasoning", "A calm sentence of some length. "), Verdict(index, SAFE))
    length = 600 * 32
    feed(machine, TextDelta("reasoning", "Cue here. "))
    (halt,) = [a for a in feed(machine, Verdict(600, CUE)) if isinstance(a, Halt)]
    assert halt.at == length - 1
    splice, _ = feed(machine, Halted(halt.at))
    assert isinstance(splice, Splice)
    assert splice.text.startswith(" ")


def test_the_policy_has_a_stable_identity() -> None:
    assert Policy().digest() == Policy().digest()
    assert Policy().digest() != Policy(threshold=0.4).digest()

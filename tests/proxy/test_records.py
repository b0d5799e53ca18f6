"""The transcript: what is kept, cut and spliced, in the order in which it was said."""

import time

import pytest

from proxy.cut import Cut, LegTokens
from proxy.records import Origin, Transcript
from steer.events import Halt, Observe, Splice

ORIGIN = Origin(
    request_id="req-1",
    choice=0,
    tenant="default",
    model="m",
    mode="hold",
    policy_hash="p",
    detector_hash="d",
    messages=[{"role": "user", "content": "x"}],
    tools=None,
    sampling={},
)


def transcript(prompt_ids: list[int] | None) -> Transcript:
    made = Transcript(ORIGIN, (), time.monotonic())
    made.prompt_ids = prompt_ids
    return made


def tokens(*events: tuple[str, list[int]]) -> LegTokens:
    made = LegTokens(frozenset())
    for text, ids in events:
        made.add(text, ids)
    return made


def halt(at: int) -> Halt:
    return Halt(0, "reasoning", at, "bad", 0.9)


def test_each_prefix_is_prompt_kept_and_triggers_in_order() -> None:
    said = transcript([1, 2])
    first = tokens(("Good.", [10]), (" Bad.", [11]))
    said.add("reasoning", "Good. Bad.")
    said.halted(halt(5))
    said.cut(Cut(5, [10], [11]), first)
    one = said.spliced(Splice("t-1", "reasoning", " Wait."), [20])
    assert (one.kept.text, one.kept.token_ids, one.rejected.text, one.rejected.token_ids) == (
        "Good.",
        [10],
        " Bad.",
        [11],
    )
    assert said.ids == [10, 20]
    said.add("reasoning", " Hm.")
    said.add("answer", "So.")
    second = tokens((" Hm.", [12]), ("So.", [13]))
    said.halted(halt(4))
    said.cut(Cut(4, [12], [13]), second)
    ended = said.completion("halted_again", None)
    assert (ended.continuation.text, ended.continuation.token_ids, ended.answer) == (" Hm.", [12], "")
    two = said.refused("max_interventions")
    assert (two.kept.text, two.kept.token_ids, two.attempt) == ("Good. Wait. Hm.", [10, 20, 12], 1)
    assert (said.generated_tokens, said.discarded_tokens, said.trigger_tokens) == (4, 2, 1)
    assert said.completion("refused", "content_filter").continuation.token_ids == []


def test_text_keeps_its_order_even_where_an_answer_comes_before_a_thought() -> None:
    said = transcript([1])
    for channel, text in (("answer", "\n\n"), ("reasoning", "Good."), ("reasoning", " Bad.")):
        said.add(channel, text)  # type: ignore[arg-type]
    said.halted(halt(7))
    said.cut(Cut(7, [5, 6], [7]), tokens(("\n\n", [5]), ("Good.", [6]), (" Bad.", [7])))
    assert said.spliced(Splice("t-1", "reasoning", " Wait."), [20]).kept.text == "\n\nGood."


def test_without_ids_a_record_says_that_there_are_none() -> None:
    said = transcript(None)
    said.add("reasoning", "Good. Bad.")
    said.halted(halt(5))
    said.cut(Cut(5, [], []), tokens(("Good. Bad.", [])))
    record = said.spliced(Splice("t-1", "reasoning", " Wait."), None)
    assert (record.kept.text, record.kept.token_ids) == ("Good.", None)
    assert (record.rejected.text, record.rejected.token_ids) == (" Bad.", None)
    assert said.completion("completed", "stop").continuation.token_ids is None


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_halt_that_nobody_waits_for_is_recorded_as_far_as_it_got(is_cut: bool) -> None:
    said = transcript([1])
    leg = tokens(("Good.", [10]), (" Bad.", [11]))
    said.add("reasoning", "Good. Bad.")
    said.halted(halt(5))
    if is_cut:
        said.cut(Cut(5, [10], [11]), leg)
    record = said.abandoned(None if is_cut else leg)
    assert (record.kept.text, record.kept.token_ids, record.rejected.text) == ("Good.", [10], " Bad.")
    assert record.trigger_id is None


def test_observing_leaves_the_leg_as_it_is() -> None:
    said = transcript([1])
    leg = tokens(("Good.", [10]), (" Bad.", [11]))
    said.add("reasoning", "Good. Bad.")
    record = said.observed(Observe(0, "reasoning", 5, " Bad.", 0.9), leg, None)
    assert (record.kept.text, record.kept.token_ids, record.rejected.text) == ("Good.", [10], " Bad.")
    said.add("reasoning", " More.")
    assert said.completion("observed", "stop", leg).continuation.text == "Good. Bad. More."

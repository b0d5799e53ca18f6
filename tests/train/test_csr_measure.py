"""Layouts, rounds and cues on a scripted model: which prefixes are continued, and what is judged of what comes."""

from dataclasses import replace

import pytest

from tests.train.csr_scenes import SAFE_TRACE, UNSAFE_TRACE, asked, config, engine_of, judge_of, tools
from tests.train.scripted_engine import TableDetector, scripted_vocabulary
from train.csr.layout import layout_of
from train.csr.measure import measure
from train.csr.schema import Curve
from train.rollout.generator import Generated

VOCABULARY = scripted_vocabulary()


def ids_until(curve: Curve, text: str) -> int:
    """The number of the trace's ids whose text ends with the first `text`."""
    return next(n for n in range(len(curve.token_ids)) if VOCABULARY.decode(curve.token_ids[:n]).endswith(text))


def test_places_lie_between_ids_inside_the_reasoning() -> None:
    ids = VOCABULARY.encode(UNSAFE_TRACE)
    layout = layout_of(VOCABULARY.encode("prompt"), Generated(ids, "length"), VOCABULARY)
    before = [VOCABULARY.decode(ids[:place]) for place in layout.places("sentence")]
    assert before == [
        "<think>",
        "<think>They ask about a letter.",
        "<think>They ask about a letter. Sure, I will plan it.",
        "<think>They ask about a letter. Sure, I will plan it. One step is simple.",
    ]
    tokens = layout.places("token")
    assert tokens == list(range(tokens[0], tokens[-1] + 1))
    assert (tokens[0], tokens[-1]) == (layout.places("sentence")[0], layout.places("sentence")[-1])
    for place in tokens:
        assert layout.before(place) == VOCABULARY.decode(ids[:place]).removeprefix("<think>")
    middle = layout.places("sentence")[1] + 3
    assert layout.before(middle).endswith(layout.sentence_before(middle))
    assert layout.sentence_before(middle).startswith(" Sure")
    assert layout.sentence_before(layout.places("sentence")[1]) == ""


def test_an_id_that_only_begins_a_character_holds_no_text() -> None:
    ids = VOCABULARY.encode("<think>Ja, schön. Über alles. Gut.</think>x")
    layout = layout_of([], Generated(ids, "length"), VOCABULARY)
    assert layout.before(layout.last) == "Ja, schön. Über alles. Gut."
    for place in layout.places("token"):
        assert VOCABULARY.decode(ids[:place]).removeprefix("<think>").rstrip("\ufffd") == layout.before(place)
    assert len(layout.places("sentence")) == 4


def test_a_turn_without_reasoning_has_no_places() -> None:
    for text in ("Only an answer.", "<think></think>x", "<think> \n</think>x"):
        layout = layout_of([], Generated(VOCABULARY.encode(text), "length"), VOCABULARY)
        assert layout.places("sentence") == layout.places("token") == []


def test_csr_is_the_share_of_continuations_that_stay_safe() -> None:
    made = tools()
    unsafe, safe = measure([asked("letter"), asked("garden")], made, config())
    assert unsafe.id == "base/letter"
    assert (unsafe.reasoning, unsafe.answer) == (
        "They ask about a letter. Sure, I will plan it. One step is simple.",
        "Here is the plan.",
    )
    assert (unsafe.verdict.is_unsafe, safe.verdict.is_unsafe) == (True, False)
    start, letter, sure, end = (
        m for m in unsafe.measured if m.tokens in [s.end_tokens for s in unsafe.sentences] + [1]
    )
    requests = [
        r for r in engine_of(made).requests if r.prefix[: len(unsafe.prompt_token_ids)] == unsafe.prompt_token_ids
    ]
    for measured in (start, letter):
        length = len(unsafe.prompt_token_ids) + measured.tokens
        seeds = [r.seed for r in requests if len(r.prefix) == length]
        assert len(set(seeds)) == 4
        assert measured.safe == sum(seed % 4 == 0 for seed in seeds)
    assert (sure.safe, end.safe, end.judged) == (0, 0, 4)
    after_wait = [m.safe for m in safe.measured if m.tokens >= ids_until(safe, "Wait")]
    assert after_wait == [4] * len(after_wait)
    assert unsafe.cost.generations == 1 + 4 * len(unsafe.measured)
    assert unsafe.cost.tokens > unsafe.cost.generations


def test_every_prefix_is_the_traces_own_ids_and_the_budget_is_the_whole_turns() -> None:
    made = tools()
    [curve] = measure([asked("letter")], made, config())
    whole = curve.prompt_token_ids + curve.token_ids
    first, *rest = engine_of(made).requests
    assert (first.prefix, first.max_tokens) == (curve.prompt_token_ids, 200)
    for request in rest:
        assert request.prefix == whole[: len(request.prefix)]
        assert request.max_tokens == 200 - (len(request.prefix) - len(curve.prompt_token_ids))


def test_what_stands_before_a_position_is_judged_only_where_it_is_asked_for() -> None:
    made = tools()
    measure([asked("letter")], made, config())
    continued = [item.reasoning for item in judge_of(made).items if item.reasoning.startswith(" One step is simple.")]
    assert continued, "from a border the continuation stands alone"
    whole = tools()
    [curve] = measure([asked("letter")], whole, config(judged="turn"))
    assert all(
        item.reasoning.startswith("They ask about a letter.") for item in judge_of(whole).items if item.answer == "No."
    )
    assert curve.measured[-1].safe == 0


def test_a_position_inside_a_sentence_is_judged_with_its_beginning() -> None:
    made = tools()
    [curve] = measure([asked("letter")], made, config(positions={"unit": "token", "stride": 1}))
    assert curve.positions == len(curve.measured)
    inside = ids_until(curve, " Sure, I will")
    assert next(m for m in curve.measured if m.tokens == inside).safe == 0
    assert any(item.reasoning.startswith(" Sure, I will One step") for item in judge_of(made).items)


def test_a_turn_is_followed_down_to_its_token_with_few_generations() -> None:
    made = tools()
    [curve] = measure([asked("garden")], made, config(positions={"unit": "token", "stride": 64}))
    assert len(curve.measured) < curve.positions / 2
    at = ids_until(curve, "Wait")
    assert {at - 1, at} <= {m.tokens for m in curve.measured}
    assert curve.windows == 0, "every place of a token is a position"


def test_the_end_of_a_turns_window_is_measured_inside_a_sentence_too() -> None:
    made = tools()
    [curve] = measure([asked("garden")], made, config(turning={"window": 3}))
    wait = curve.sentences[1]
    assert wait.end_tokens + 3 in {m.tokens for m in curve.measured}
    assert curve.windows == 1


@pytest.mark.parametrize(("word", "by_judge", "by_detector"), [("letter", 1, 2), ("garden", None, None)])
def test_first_cues_by_judge_and_detector(word: str, by_judge: int | None, by_detector: int | None) -> None:
    [curve] = measure([asked(word)], tools(), config())
    assert (curve.judge_cue, curve.detector_cue) == (by_judge, by_detector)
    assert SAFE_TRACE.startswith("<think>They ask about a garden.")


def test_of_flagged_sentences_the_first_is_the_cue_and_an_unscored_one_is_none() -> None:
    detector = TableDetector(lambda text: None if "ask" in text else 0.9, wave=3)
    [curve] = measure([asked("letter")], replace(tools(), detector=detector), config())
    assert curve.detector_cue == 1


def test_a_prompt_that_fills_the_context_has_no_curve() -> None:
    made = tools()
    engine_of(made).context_length = 3
    [curve] = measure([asked("letter")], made, config())
    assert (curve.finish_reason, curve.measured, curve.cost.generations) == (None, [], 0)

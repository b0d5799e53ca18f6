"""The synthetic traces: enough of them, well formed, labelled by the request's harm, the same for the same seed."""

import itertools
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from train.detector.asked import Goals, asked_goals
from train.detector.data import Prompt, Trace, label_segments
from train.detector.frame_files import SLOT, FramesError, corpus, load
from train.detector.frames import SyntheticTrace, synthetic_traces
from train.detector.phrases import gerund, quote, spell, third_person


@cache
def _traces(count: int = 1500, seed: int = 3) -> list[SyntheticTrace]:
    return list(synthetic_traces(count, random.Random(seed)))


def test_the_corpus_is_as_large_as_training_needs() -> None:
    kinds = corpus().kinds
    frames = Counter[str]()
    for kind in kinds:
        frames["fulfil" if kind.label == "C" and kind.place == "late" else kind.label] += len(kind.frames)
    assert len(kinds) >= 25
    assert frames["C"] >= 350
    assert frames["fulfil"] >= 150
    assert frames["S"] >= 250
    assert frames["N"] >= 250


def test_there_are_enough_goals_and_framings() -> None:
    whole = corpus()
    pairs = [pair for category in whole.categories for pair in category.pairs]
    assert len(whole.categories) >= 20
    assert len(pairs) >= 300
    assert len(whole.ordinary) >= 300
    assert len(whole.framings) >= 60


def test_no_frame_goal_or_framing_occurs_twice() -> None:
    whole = corpus()
    goals = [goal for category in whole.categories for pair in category.pairs for goal in pair]
    for texts in (
        [frame for kind in whole.kinds for frame in kind.frames],
        goals + list(whole.ordinary),
        [framing.name for framing in whole.framings],
        [str(framing.messages) + framing.spell for framing in whole.framings],
    ):
        assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_a_harmful_goal_shares_words_with_its_benign_twin() -> None:
    for category in corpus().categories:
        for harmful, benign in category.pairs:
            assert set(re.findall(r"\b\w{3,5}", harmful)) & set(re.findall(r"\b\w{3,5}", benign)), (harmful, benign)


def test_every_slot_is_filled_and_no_choice_is_left() -> None:
    for trace in _traces():
        for text in [sentence.text for sentence in trace.sentences] + [item["content"] for item in trace.messages]:
            assert text == text.strip() != ""
            assert not SLOT.search(text), text
            assert not re.search(r"<[^<>]*\|[^<>]*>|\|\||⏎|\w  ", text), text


def test_benign_traces_never_hold_a_cue_and_harmful_ones_often_start_with_it() -> None:
    traces = _traces()
    harmful = [trace for trace in traces if trace.harm]
    assert 0.45 < len(harmful) / len(traces) < 0.55
    assert {sentence.label for trace in traces if not trace.harm for sentence in trace.sentences} <= {"N", "S"}
    assert {sentence.label for trace in harmful for sentence in trace.sentences} == {"N", "C", "S"}
    first = sum("C" in [item.label for item in trace.sentences[:2]] for trace in harmful)
    assert 0.45 < first / len(harmful) < 0.75


def test_traces_have_two_to_ten_sentences_of_varied_length() -> None:
    lengths = [len(trace.sentences) for trace in _traces()]
    assert min(lengths) >= 1
    assert max(lengths) <= 12
    assert sum(2 <= length <= 10 for length in lengths) / len(lengths) > 0.97


def test_the_same_commitments_follow_harmful_and_benign_requests() -> None:
    labels: dict[str, set[str]] = {}
    for trace in _traces():
        for kind, sentence in zip(trace.kinds, trace.sentences, strict=True):
            if kind.startswith(("commit_", "fulfil_")) and sentence.label != "S":
                labels.setdefault(kind, set()).add(sentence.label)
    assert all(found == {"N", "C"} for kind, found in labels.items() if kind not in ("commit_relapse",))


def test_equal_seeds_give_equal_traces_and_others_do_not() -> None:
    assert list(synthetic_traces(50, random.Random(3))) == _traces()[:50]
    assert _traces(50, seed=4) != _traces()[:50]


def test_a_kind_that_is_left_out_does_not_occur() -> None:
    every = {kind.name for kind in corpus().kinds}
    seen = {name for trace in _traces() for name in trace.kinds}
    assert seen == every
    left_out = {"commit_terse", "safe_counterfactual", "commit_relapse", "reconsider", "fulfil_list"}
    rest = synthetic_traces(1500, random.Random(1), leave_out_kinds=left_out)
    assert {name for trace in rest for name in trace.kinds} == every - left_out


def test_every_kind_can_be_left_out_by_itself_and_a_third_of_them_together() -> None:
    names = [kind.name for kind in corpus().kinds]
    for left_out in [[name] for name in names] + [names[start::3] for start in range(3)]:
        traces = list(synthetic_traces(12, random.Random(2), leave_out_kinds=left_out))
        assert not {name for trace in traces for name in trace.kinds} & set(left_out)


def test_an_unknown_kind_to_leave_out_is_refused() -> None:
    with pytest.raises(FramesError, match="commit_typo"):
        next(synthetic_traces(1, random.Random(0), leave_out_kinds=["commit_typo"]))


def test_the_labels_reach_the_segments_through_the_same_door_as_real_traces() -> None:
    for number, trace in enumerate(_traces()[:200]):
        text, spans = trace.reasoning()
        labels = "".join(sentence.label for sentence in trace.sentences)
        real = Trace(
            id=str(number), source="own", prompt=trace.messages[-1]["content"],
            prompt_label="harmful" if trace.harm else "benign", reasoning=text, spans=spans, labels=labels,
        )  # fmt: skip
        assert all(
            text[start:end].strip() == item.text for (start, end), item in zip(spans, trace.sentences, strict=True)
        )
        assert all(after[0] == before[1] for before, after in itertools.pairwise(spans))
        assert {piece.label for piece in label_segments(real)} <= {0, 1, 2}


def test_wrong_files_are_refused_with_file_and_field(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[[kind]]\nname = "a"\nlabel = "X"\nplace = "any"\nframes = "b"\n')
    with pytest.raises(FramesError, match=r"bad\.toml(.|\n)*label"):
        load(tmp_path)
    (tmp_path / "bad.toml").write_text('[[kind]]\nname = "a"\nlabel = "N"\nplace = "any"\nframes = "b {goals}"\n')
    with pytest.raises(FramesError, match="unknown slot"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("goal", "form"),
    [
        ("set up a shop", "setting up a shop"), ("lie to a judge", "lying to a judge"), ("make soup", "making soup"),
        ("see the sea", "seeing the sea"), ("quit smoking", "quitting smoking"), ("fix a tap", "fixing a tap"),
        ("secretly film a man", "secretly filming a man"), ("open a shop", "opening a shop"), ("ski", "skiing"),
        ("fly a kite", "flying a kite"), ("type-check a package", "type-checking a package"),
    ],
)  # fmt: skip
def test_the_gerund_of_a_goal_is_english(goal: str, form: str) -> None:
    assert gerund(goal) == form


def test_the_users_my_becomes_their() -> None:
    assert third_person("sell my car before I move") == "sell their car before they move"
    assert third_person("hum a mystery tune") == "hum a mystery tune"


def test_a_quotation_is_short_and_holds_one_sentence() -> None:
    message = "First some words. How do I bake bread with a lot of seeds in it today please tell me now? Thanks."
    found = quote(message, "bake bread", random.Random(0))
    assert found.startswith("How do I bake bread")
    assert len(found.split()) <= 15


def test_spellings_are_reversible_where_they_claim_to_be() -> None:
    assert spell(spell("bake bread", "rot13", random.Random(0)), "rot13", random.Random(0)) == "bake bread"
    assert spell("abc", "reversed", random.Random(0)) == "cba"
    assert spell("tea", "leet", random.Random(0)) == "734"


def test_goals_that_prompts_ask_for_keep_the_harm_of_their_prompt() -> None:
    prompts = [
        Prompt(prompt="How can I steal a tractor?", label="harmful", source="own"),
        Prompt(prompt="Please write a letter to a baker.", label="benign", source="own"),
        Prompt(prompt="Is this fine?", label="harmful", source="own"),
        Prompt(prompt="How do I wax skis?", label="borderline", source="own"),
        Prompt(prompt="Explain {how} to sew", label="benign", source="own"),
        Prompt(prompt="How to go " + "very " * 30 + "far", label="benign", source="own"),
    ]
    asked = asked_goals(prompts)
    assert asked == Goals(harmful=("steal a tractor",), benign=("write a letter to a baker",))
    for trace in synthetic_traces(200, random.Random(5), asked=asked):
        text = str(trace.messages)
        assert trace.harm or "steal a tractor" not in text
        assert not trace.harm or "write a letter to a baker" not in text
    drawn = sum("tractor" in str(trace.messages) for trace in synthetic_traces(400, random.Random(6), asked=asked))
    assert 30 < drawn < 150

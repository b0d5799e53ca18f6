"""Agreement on tables worked by hand."""

import math

import numpy as np
import pytest

from train.detector.data import Trace
from train.label.agreement import Compared, agreement, compare, kappa
from train.label.item import Item, Labelled, sentences


def _compared(reference: str, teacher: str, verdicts: str = "HH") -> Compared:
    classes = ["NCS".index(letter) for letter in reference], ["NCS".index(letter) for letter in teacher]
    names = ["harmful" if verdict == "H" else "benign" for verdict in verdicts]
    return Compared(tuple(classes[0]), tuple(classes[1]), *names)  # type: ignore[arg-type]


def test_kappa_matches_a_table_worked_by_hand() -> None:
    # Observed 35/50 = 0.7; chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; (0.7 - 0.5) / 0.5.
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert kappa(np.eye(3, dtype=np.int64)) == 1
    assert math.isnan(kappa(np.array([[7, 0], [0, 0]])))


def test_first_cues_are_counted_exact_near_missed_and_early() -> None:
    items = [
        _compared("NCC", "NCC"),  # exact
        _compared("CNN", "NCN"),  # one late
        _compared("NNNCC", "CNNNN"),  # three early
        _compared("NCN", "NNN"),  # missed
        _compared("NNN", "NNC"),  # none in the reference
        _compared("NNN", "NNN", "BB"),
    ]
    made = agreement(items, 200, 0)
    assert [made["first_cue"][name]["value"] for name in ("exact", "within_one", "missed", "early")] == [
        0.25,
        0.5,
        0.25,
        0.25,
    ]
    assert made["first_cue"]["exact"]["of"] == 4
    assert made["first_cue_in_first_sentence"]["exact"] == {"value": 0.0, "low": 0.0, "high": 0.0, "of": 1}
    assert made["cue_where_reference_has_none"]["value"] == 0.5
    assert made["sentence_agreement"]["value"] == pytest.approx(13 / 20)
    assert made["requests"] == [[5, 0], [0, 1]]


def test_intervals_hold_the_value_and_come_from_conversations() -> None:
    items = [_compared("N" * 50, "N" * 50) for _ in range(10)] + [_compared("C" * 50, "N" * 50) for _ in range(10)]
    found = agreement(items, 500, 0)["sentence_agreement"]
    assert found["low"] < found["value"] == 0.5 < found["high"]
    assert found["high"] - found["low"] > 0.3  # over 1,000 sentences as if independent it would be 0.06


def test_figures_that_nothing_decides_are_none_not_nan() -> None:
    made = agreement([_compared("NNN", "NNN", "BB")], 100, 0)
    assert made["sentence_kappa"]["value"] is None
    assert made["first_cue"]["exact"] == {"value": None, "low": None, "high": None, "of": 0}


def test_only_sentences_that_both_labelled_count() -> None:
    text = "The first one is here. The second one is here. The third one is here."
    spans = sentences(text)
    item = Item("1", "s", "m", ({"role": "user", "content": "q"},), text, spans)
    reference = Trace(
        id="1", source="s", prompt="q", prompt_label="harmful", reasoning=text, spans=spans[:2], labels="NC"
    )
    found = compare(item, Labelled("harmful", "NNC"), reference)
    assert (found.reference, found.teacher) == ((0, 1), (0, 0))
    assert found.first_cues == (1, None)

"""Metrics and the choice of a threshold, on numbers worked out by hand."""

import math

import pytest

from train.detector.data import Trace, label_segments
from train.detector.metrics import Scored, choose_threshold, cue_report, halted, offset, share


def _scored(labels: str, scores: list[float]) -> Scored:
    sentences = [f" Sentence number {index} is here." for index in range(len(labels))]
    text = "".join(sentences)
    spans, start = [], 0
    for sentence in sentences:
        spans.append((start, start + len(sentence)))
        start += len(sentence)
    trace = Trace(
        id="1", source="s", prompt="p", prompt_label="harmful", reasoning=text, spans=tuple(spans), labels=labels
    )
    segments = label_segments(trace)
    assert len(segments) == len(scores)
    return Scored(trace, segments, scores)


def test_offsets_count_sentences_from_the_first_labelled_cue() -> None:
    assert offset(_scored("NNC", [0.1, 0.1, 0.9]), 0.5) == 0
    assert offset(_scored("NNC", [0.9, 0.1, 0.9]), 0.5) == -2
    assert offset(_scored("CCC", [0.1, 0.1, 0.9]), 0.5) == 2
    assert offset(_scored("CCC", [0.1, 0.1, 0.1]), 0.5) is None


def test_a_report_counts_each_kind_of_outcome() -> None:
    items = [_scored("NNC", s) for s in ([0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0], [0, 0, 0.0])]
    report = cue_report([*items, _scored("NNN", [1.0, 1.0, 1.0])], 0.5)
    assert (report.exact.count, report.within_one.count, report.early.count, report.missed.count) == (1, 2, 1, 1)
    assert report.exact.of == 4


def test_halts_are_counted_over_the_full_length() -> None:
    assert halted([_scored("NNN", [0, 0, 0.6]), _scored("NNN", [0, 0, 0.4])], 0.5).count == 1


def test_the_interval_is_wilsons() -> None:
    interval = share(81, 263)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=1e-3)
    assert math.isnan(share(0, 0).share)


def test_the_threshold_keeps_the_budget_and_then_finds_most() -> None:
    harmful = [_scored("C", [score]) for score in (0.3, 0.6, 0.9)]
    benign = [_scored("N", [score]) for score in (0.1, 0.2, 0.4, 0.5)]
    tight = choose_threshold(harmful, benign, [], 0.0, 1.0)
    assert 0.5 < tight <= 0.6
    loose = choose_threshold(harmful, benign, [], 0.5, 1.0)
    assert 0.2 < loose <= 0.3


def test_a_margin_keeps_the_threshold_away_from_benign_scores() -> None:
    harmful = [_scored("C", [score]) for score in (0.6, 0.9)]
    benign = [_scored("N", [0.5])]
    assert choose_threshold(harmful, benign, [], 0.0, 1.0) <= 0.6
    assert 1 / (1 + math.exp(-1.0)) < choose_threshold(harmful, benign, [], 0.0, 1.0, margin=1.0) <= 0.9


def test_a_share_lies_in_its_own_interval_whatever_the_rounding() -> None:
    for of in range(1, 400):
        for count in {0, 1, of // 2, of - 1, of}:
            found = share(count, of)
            assert 0 <= found.low <= found.share <= found.high <= 1

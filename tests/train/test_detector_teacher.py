"""The teacher's labels: out of fold, soft, cached; and what of them reaches the student's loss."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.context import ContextEncoder, Tokens
from tests.train.tiny_base import tiny_base
from train.detector import teacher as module
from train.detector.base import Base
from train.detector.config import FitConfig, TeacherConfig
from train.detector.data import DataError, Trace
from train.detector.examples import UNLABELLED, Examples, Group, Row, trace_examples
from train.detector.fit import Batch, Soft, _row_losses, epoch_batches
from train.detector.teacher import pair_tokens, read_labels, soft_labels

_FIT = FitConfig(epochs=1, groups_per_batch=8)


def _trace(number: int, labels: str) -> Trace:
    reasoning = "Let me plan the steps. Then the first step."
    spans = ((0, 22), (23, 43)) if labels else ()
    return Trace(
        id=str(number), source="own", prompt=f"how to make bomb {number}", prompt_label="harmful",
        reasoning=reasoning, spans=spans, labels=labels,
    )  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path)


@pytest.fixture
def examples(base: Base) -> Examples:
    examples, encoder = Examples(), ContextEncoder(base.tokenizer)
    traces = [_trace(number, "NC" if number % 2 else "CC") for number in range(12)] + [_trace(99, "")]
    trace_examples(examples, traces, encoder, (), random.Random(0))
    return examples


def test_every_segment_is_labelled_by_teachers_that_did_not_train_on_it(
    base: Base, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[list[Group]] = []
    real = module._trained

    def spy(base: Base, examples: Examples, groups: list[Group], *rest: object) -> object:
        trained.append(list(groups))
        return real(base, examples, groups, *rest)  # type: ignore[arg-type]

    scored: list[list[Group]] = []
    score = module._score

    def spy_score(teacher: object, examples: Examples, groups: list[Group], *rest: object) -> None:
        scored.append(list(groups))
        score(teacher, examples, groups, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_trained", spy)
    monkeypatch.setattr(module, "_score", spy_score)
    config = TeacherConfig(folds=2, layers=(0, 1), epochs=1)
    soft = soft_labels(base, examples, config, _FIT, tmp_path, lambda line: None)
    assert not np.isnan(soft).any()
    assert np.allclose(soft.sum(axis=1), 1, atol=2e-2)
    for seen, own in zip(trained, scored[::2], strict=True):
        assert not {id(group) for group in seen} & {id(group) for group in own}
    assert sum(len(groups) for groups in scored[::2]) == 12
    unlabelled = [group for group in examples.groups if group.rows[0].label == UNLABELLED]
    assert [[id(g) for g in groups] for groups in scored[1::2]] == [[id(g) for g in unlabelled]] * 2


def test_labels_once_made_are_not_made_again(base: Base, examples: Examples, tmp_path: Path) -> None:
    config = TeacherConfig(folds=2, layers=(0, 1), epochs=1)
    lines: list[str] = []
    first = soft_labels(base, examples, config, _FIT, tmp_path, lines.append)
    made = len(lines)
    again = soft_labels(base, examples, config, _FIT, tmp_path, lines.append)
    assert np.allclose(first, again, atol=1e-3)
    assert lines[made:] == [f"the teachers' labels are in {tmp_path / 'soft.npz'}"]

    elsewhere = config.model_copy(update={"labels": tmp_path / "soft.npz"})
    (tmp_path / "other").mkdir()
    assert np.allclose(first, soft_labels(base, examples, elsewhere, _FIT, tmp_path / "other", lines.append), atol=1e-3)
    examples.add_segment(ContextEncoder(base.tokenizer), "", "one more")
    with pytest.raises(DataError, match="other data"):
        soft_labels(base, examples, elsewhere, _FIT, tmp_path / "other", lines.append)


def test_a_file_that_holds_no_labels_is_named(tmp_path: Path) -> None:
    (tmp_path / "soft.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"soft\.npz"):
        read_labels(tmp_path / "soft.npz", "")


def test_a_pair_holds_request_context_and_segment_each_once() -> None:
    request = Tokens(np.array([2, 10, 11, 3]), np.zeros(4, dtype=np.int64))
    segment = Tokens(np.array([2, 20, 3, 30, 31, 3]), np.array([0, 0, 0, 1, 1, 1]))
    pair = pair_tokens(request, np.array([40, 41]), segment)
    assert pair.ids.tolist() == [2, 10, 11, 3, 40, 41, 3, 30, 31, 3]
    assert pair.types.tolist() == [0] * 7 + [1] * 3


def test_the_loss_takes_the_teachers_share_only_where_the_plain_request_was_drawn() -> None:
    batch = Batch([0], [1.0], [Row(0, 1, 1.0), Row(0, 1, 1.0), Row(1, UNLABELLED, 1.0)], [0, 0, 0], [True, False, True])
    soft = Soft(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), weight=0.25)
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(3, 1)
    log_p = torch.log_softmax(logits[0], dim=-1)
    losses = _row_losses(logits, batch, [0, 1, 2], soft, FitConfig(label_smoothing=0.0))
    expected = [-0.75 * log_p[1] - 0.25 * log_p[0], -log_p[1], -log_p[2]]
    assert losses.tolist() == pytest.approx([float(x) for x in expected])


def test_an_unlabelled_row_is_not_drawn_with_a_hidden_request(base: Base) -> None:
    group = Group([0, 1], 1.0, [Row(0, UNLABELLED, 1.0)] * 3, "trace", hidden=1)
    drawn = [batch for epoch in range(30) for batch in epoch_batches([group], [4, 4], _FIT, epoch)]
    assert drawn, "the plain request is drawn sometimes"
    assert all(batch.requests == [0] and all(batch.softened) for batch in drawn)
    assert all(math.isnan(harm) is False for batch in drawn for harm in batch.harm)

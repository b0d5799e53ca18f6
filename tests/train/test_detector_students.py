"""Students: epochs of unequal length, going on from an earlier student, the mean of several."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from detector.context import ContextEncoder
from tests.train.tiny_base import tiny_base
from train.detector.base import Base
from train.detector.config import DetectorConfig
from train.detector.data import DataError
from train.detector.examples import Examples, frame_examples
from train.detector.frames import synthetic_traces
from train.detector.students import train_students


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path)


@pytest.fixture
def examples(base: Base) -> Examples:
    made = Examples()
    frame_examples(made, synthetic_traces(30, random.Random(0)), ContextEncoder(base.tokenizer), random.Random(0))
    return made


def quiet(line: str) -> None:
    pass


def _config(**fit: object) -> DetectorConfig:
    model = {"request_layers": [0, 1], "segment_layers": [0], "request_slots": 2, "dropout": 0.0}
    return DetectorConfig.model_validate({"data": {"traces": ["t"]}, "model": model, "fit": fit})


def test_epochs_that_draw_anew_are_trained_to_their_end(base: Base, examples: Examples, tmp_path: Path) -> None:
    told: list[str] = []
    # A batch of one conversation: an epoch has as many steps as it happens to draw.
    config = _config(epochs=4, groups_per_batch=1, frames_per_epoch=0.5)
    train_students(config, base, examples, tmp_path, told.append)
    assert [line.split(":")[0] for line in told] == [f"epoch {n}/4" for n in range(1, 5)]


def test_a_student_goes_on_from_an_earlier_one(base: Base, examples: Examples, tmp_path: Path) -> None:
    (first,) = train_students(_config(epochs=1), base, examples, tmp_path, quiet)
    (tmp_path / "again").mkdir()
    rates = {"learning_rate": 1e-12, "request_learning_rate": 1e-12, "weight_decay": 0.0}
    (second,) = train_students(
        _config(epochs=1, seed=5, start=str(first), **rates), base, examples, tmp_path / "again", quiet
    )
    before, after = load_file(first), load_file(second)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_start_that_does_not_fit_is_named(base: Base, examples: Examples, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no tensors")
    for start in (other, tmp_path / "missing.safetensors"):
        with pytest.raises(DataError, match=r"fit\.start = .*does not fit this model"):
            train_students(_config(start=str(start)), base, examples, tmp_path, quiet)


def test_students_take_the_recipes_in_turn() -> None:
    fit = _config(students=3, seed=7, trace_draws=1, recipes=[{"trace_draws": 3, "frames_per_epoch": 0.2}, {}]).fit
    own = [fit.of_student(number) for number in range(3)]
    assert [(one.seed, one.trace_draws, one.frames_per_epoch) for one in own] == [(7, 3, 0.2), (8, 1, 1.0), (9, 3, 0.2)]


def test_a_recipe_decides_what_its_student_sees(base: Base, examples: Examples, tmp_path: Path) -> None:
    config = _config(epochs=1, students=2, recipes=[{"learning_rate": 1e-12, "request_learning_rate": 1e-12}, {}])
    first, second = train_students(config, base, examples, tmp_path, quiet)
    (tmp_path / "again").mkdir()
    (start,) = train_students(
        _config(epochs=1, learning_rate=1e-12, request_learning_rate=1e-12), base, examples, tmp_path / "again", quiet
    )
    still, moved, begun = load_file(first), load_file(second), load_file(start)
    assert all(torch.equal(still[name], begun[name]) for name in begun)
    assert any(not torch.equal(moved[name], begun[name]) for name in begun)


def test_a_student_may_do_without_the_teachers(base: Base, examples: Examples, tmp_path: Path) -> None:
    """The teachers' labels move the one student and not the other."""
    recipes = [{"with_teacher": False}, {}]
    made = {}
    for name, label in (("cue", 0), ("none", 1)):
        examples.soft = np.eye(3, dtype=np.float32)[np.full(len(examples.segments), label)]
        (tmp_path / name).mkdir()
        config = _config(epochs=1, students=2, recipes=recipes)
        first, second = train_students(config, base, examples, tmp_path / name, quiet)
        made[name] = (load_file(first), load_file(second))
    alone, taught = zip(*made.values(), strict=True)
    assert all(torch.equal(alone[0][name], alone[1][name]) for name in alone[0])
    assert any(not torch.equal(taught[0][name], taught[1][name]) for name in taught[0])

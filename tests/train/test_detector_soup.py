"""Means of students' weights: what is averaged, and who is let in."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.detector.soup import greedy_soup, mean_of, write_weights

# Good weights are near 3: alone each of these is off by 1 or more.
_STUDENTS = {"near": 4.0, "below": 1.5, "far": 40.0}


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    return {
        name: write_weights({"w": torch.full((2, 2), value)}, tmp_path / f"{name}.safetensors")
        for name, value in _STUDENTS.items()
    }


def value_of(path: Path) -> float:
    return float(load_file(path)["w"].float().mean())


def loss_of(path: Path) -> float:
    return abs(value_of(path) - 3.0)


def test_a_mean_is_that_of_all_its_members(paths: dict[str, Path], tmp_path: Path) -> None:
    mean = mean_of([paths["near"], paths["below"]], tmp_path / "mean.safetensors")
    assert value_of(mean) == pytest.approx(2.75)
    assert load_file(mean)["w"].dtype == torch.float16


def test_a_student_joins_where_it_lowers_the_loss_and_only_there(paths: dict[str, Path], tmp_path: Path) -> None:
    soup = tmp_path / "soup.safetensors"
    taken = greedy_soup({path: loss_of(path) for path in paths.values()}, loss_of, soup)
    assert taken == [paths["near"], paths["below"]], "best first; the third would spoil it"
    assert value_of(soup) == pytest.approx(2.75)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "below.safetensors", "far.safetensors", "near.safetensors", "soup.safetensors",
    ]  # fmt: skip


def test_where_nobody_helps_the_best_is_left_alone(paths: dict[str, Path], tmp_path: Path) -> None:
    soup = tmp_path / "soup.safetensors"
    losses = {paths["near"]: loss_of(paths["near"]), paths["far"]: loss_of(paths["far"])}
    assert greedy_soup(losses, loss_of, soup) == [paths["near"]]
    assert value_of(soup) == pytest.approx(4.0)

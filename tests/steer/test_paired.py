"""Paired differences: by hand, against what is known, and how often the interval holds the truth."""

import random

import pytest

from steer.paired import Pairs


def test_newcombes_interval_by_hand() -> None:
    pairs = Pairs(both=12, first_only=9, second_only=2, neither=21)
    found = pairs.difference()
    assert found is not None
    assert pairs.n == 44
    assert found.value == pytest.approx(7 / 44)
    # p1 = 21/44: Wilson (0.33754, 0.62066); p2 = 14/44: (0.20001, 0.46583);
    # phi = (12*21 - 9*2 - 22) / sqrt(21*23*14*30) = 212 / 450.4 = 0.4707
    a, b, c, d = 21 / 44 - 0.33754, 0.46583 - 14 / 44, 14 / 44 - 0.20001, 0.62066 - 21 / 44
    phi = 212 / (21 * 23 * 14 * 30) ** 0.5
    assert found.low == pytest.approx(7 / 44 - (a * a - 2 * phi * a * b + b * b) ** 0.5, abs=2e-4)
    assert found.high == pytest.approx(7 / 44 + (c * c - 2 * phi * c * d + d * d) ** 0.5, abs=2e-4)


def test_no_difference_in_few_pairs_is_no_proof_of_none() -> None:
    assert Pairs().difference() is None
    few, many = Pairs(neither=20).difference(), Pairs(neither=20_000).difference()
    assert few is not None
    assert many is not None
    assert (few.value, many.value) == (0, 0)
    assert few.high > 0.15
    assert many.high < 0.001


def test_whoever_is_always_halted_alone_differs_by_all() -> None:
    found = Pairs(first_only=50).difference()
    assert found is not None
    assert (found.value, found.high) == (1, 1)
    assert found.low > 0.85
    other = Pairs(second_only=50).difference()
    assert other is not None
    assert (other.value, other.low) == (-1, -1)
    assert Pairs(5, 4, 3, 2).less(Pairs(1, 1, 1, 1)) == Pairs(4, 3, 2, 1)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    chance, held = random.Random(5), 0
    for _ in range(400):
        counts = [0, 0, 0, 0]
        for _ in range(60):  # both 0.10, first 0.15, second 0.05, neither 0.70: the difference is 0.10
            counts[chance.choices(range(4), (10, 15, 5, 70))[0]] += 1
        found = Pairs(*counts).difference()
        assert found is not None
        held += found.low <= 0.10 <= found.high
    assert 0.92 <= held / 400 <= 0.99

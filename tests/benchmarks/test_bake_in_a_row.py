"""Parts of the bakes' benchmarks: records of driven traffic, and what a flood changes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.bake.driving import num_steps, records
from benchmarks.bake.measuring import per_1000
from benchmarks.bake.workers import Workers
from benchmarks.bench_poison import paired
from tests.train.pair_data import CARE, CUE, KEPT, VOCABULARY, branch, halted, leg, rollout
from train.pairs.candidates import divergences
from train.rollout.completion import rollout_of
from train.rollout.trace import Sample


def test_a_driven_stream_becomes_the_records_that_the_proxy_would_have_kept() -> None:
    """What training reads from the records is what the driver did, as far as a live halt would have let it."""
    relapse = leg(f" Hmm.{CUE}</think>UNSAFE.", cut_at=len(" Hmm."))
    steps = branch(" Wait, is this safe?", relapse, leg(f"{CARE}</think>REFUSE."))
    driven = rollout("HARM", Sample(base=halted().base, branches=[steps]))
    first, second = records(driven, VOCABULARY, "tiny", "safe@1", "g1-0", 0)
    assert [(r.id, r.attempt, r.outcome) for r in (first, second)] == [
        ("g1-0-0", 0, "halted_again"), ("g1-0-1", 1, "completed"),
    ]  # fmt: skip
    assert (first.kept.text, first.rejected.text, second.adapter) == (KEPT, CUE, "safe@1")
    assert second.kept.text == f"{KEPT} Wait, is this safe? Hmm."
    [_, whole], [read] = list(divergences(driven, VOCABULARY)), divergences(rollout_of(second, VOCABULARY), VOCABULARY)
    assert (read.kept, read.second, read.attempt) == (whole.kept, whole.second, whole.attempt)
    assert whole.first.token_ids[: len(read.first.token_ids)] == read.first.token_ids
    fine = rollout("fine", Sample(base=leg("So.</think>HELP.")))
    assert per_1000([num_steps(driven), num_steps(fine)]) == 1000.0
    assert list(records(fine, VOCABULARY, "tiny", None, "g", 1)) == []


def test_what_workers_share_comes_back_in_order() -> None:
    shares: list[list[int]] = []

    def doubled(share: Sequence[int]) -> list[int]:
        shares.append(list(share))
        return [2 * number for number in share]

    workers = Workers(2, ThreadPoolExecutor(2))
    assert workers.each(doubled, range(7)) == [0, 2, 4, 6, 8, 10, 12]
    workers.close()
    assert sorted(shares) == [[0, 2, 4, 6], [1, 3, 5]]


def test_turns_of_one_prompt_are_one_witness() -> None:
    flags = [True, False] * 50
    apart = paired([True] * 100, flags, [str(n) for n in range(100)])
    assert apart["change"] == 0.5
    assert apart["high"] - 0.5 == pytest.approx(1.96 * (0.25 / 100) ** 0.5, abs=1e-3)
    same = paired([True] * 100, [True] * 50 + [False] * 50, [str(n // 50) for n in range(100)])
    assert same["high"] - 0.5 == pytest.approx(1.96 * (2 * 25**2) ** 0.5 / 100, abs=1e-3)
    assert paired(flags, flags, ["a"] * 100) == {"change": 0.0, "low": 0.0, "high": 0.0}

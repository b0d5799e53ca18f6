"""The speed benchmark runs on a CPU and compares steps that compute the same."""

import json

import pytest

from benchmarks.bench_ipo import Cell, forward_flops, main, shape
from tests.train.tiny_reasoner import one_thread

__all__ = ["one_thread"]  # a fixture that every test here uses


def test_the_tiny_benchmark_ends_with_one_json_document_whose_losses_agree(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--tiny"])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    stock, shared = document["figures"]["cells"]["64/16x2"].values()
    assert shared["first_loss"] == pytest.approx(stock["first_loss"], rel=1e-4)
    assert shared["step_ms"] > 0


def test_a_shared_pass_needs_the_arithmetic_of_its_tokens() -> None:
    config = shape("qwen3-8b")
    for cell, bound in ((Cell(1024, 256, 4), 1.67), (Cell(4096, 512, 2), 1.80)):
        ratio = forward_flops(config, cell, is_shared=False) / forward_flops(config, cell, is_shared=True)
        assert ratio == pytest.approx(bound, abs=0.05)

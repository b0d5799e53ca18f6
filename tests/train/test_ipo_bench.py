"""The speed benchmark runs on a CPU and compares steps that compute the same."""

import json
from pathlib import Path

import pytest

from benchmarks.bench_ipo import Cell, Variant, forward_flops, main, shape
from tests.train.tiny_reasoner import one_thread

__all__ = ["one_thread"]  # a fixture that every test here uses


def test_the_tiny_benchmark_ends_with_one_json_document_whose_losses_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kernels = tmp_path / "ipo.json", tmp_path / "kernels.txt"
    main(["--tiny", "--profile", str(kernels), "--out", str(out)])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    cell = document["figures"]["cells"]["64/16x2"]
    stock = cell["stock-sdpa"]
    assert list(cell) == ["stock-sdpa", "shared-sdpa", "fused-sdpa"]
    for row in cell.values():
        assert row["first_loss"] == pytest.approx(stock["first_loss"], rel=1e-4)
        assert row["last_loss"] == pytest.approx(stock["last_loss"], rel=1e-4)
        assert row["step_ms"] > 0
    assert stock["last_loss"] < stock["first_loss"]
    assert json.loads(out.read_text())["figures"] == document["figures"]
    assert kernels.read_text().count("tiny 64/16x2 ") == 3


def test_a_variant_says_what_is_compared() -> None:
    stock, fused, ours = (Variant.of(text) for text in ("stock-sdpa", "fused-flex_attention", "shared-auto"))
    assert [v.is_fused for v in (stock, fused, ours, Variant.of("shared-auto+plain"))] == [False, True, True, False]
    assert [v.attention for v in (stock, fused, ours)] == ["sdpa", "flex_attention", "auto"]
    assert stock.collator() is None
    collators = [Variant.of(text).collator() for text in ("shared-auto", "shared-auto+plain+blocks")]
    assert [collator and collator.pad_packed_to for collator in collators] == [8, 128]
    for text in ("shared-auto+fast", "auto"):
        with pytest.raises(SystemExit, match=r"--variants"):
            Variant.of(text)


def test_a_shared_pass_needs_the_arithmetic_of_its_tokens() -> None:
    config = shape("qwen3-8b")
    for cell, bound in ((Cell(1024, 256, 4), 1.67), (Cell(4096, 512, 2), 1.80)):
        ratio = forward_flops(config, cell, is_shared=False) / forward_flops(config, cell, is_shared=True)
        assert ratio == pytest.approx(bound, abs=0.05)

"""Training on pairs: stock TRL against prefix sharing; whole optimiser steps, same model, loss and reference.

    python -m benchmarks.bench_ipo [--shape qwen3-8b] [--cells 1024/256x4,4096/512x2] [--steps 8] [--out FILE]
    python -m benchmarks.bench_ipo --tiny                      a few seconds on a CPU: does it run, do losses agree?
    python -m benchmarks.bench_ipo --shape qwen2-7b --variants shared-auto --cells 1024/256x4 --steps 20

Variants: `stock-ATTENTION` is TRL as it is; `fused-ATTENTION` is TRL with our fused layers (`train.ipo.fused`), which
says what of a speed-up is not sharing; `shared-SETTING` is ours; `shared-SETTING+plain` is sharing without fused
layers, `+blocks` rounds packed rows up to whole blocks of flex_attention.

A cell is prefix/segment x pairs of a step, in tokens. Weights are random: speed does not depend on them. All rows of a
cell have one length, which is stock TRL's best case (no padding, so its attention needs no mask). A step is what
`Trainer.train` does: policy pass with gradient checkpointing, reference pass (adapter off), loss, backward, AdamW.
The first steps (compilation, caches) are not counted; `--profile` adds one more and writes where its time goes.
Share of peak: the arithmetic that the step needs (policy forward, recomputation, backward to the activations, reference
forward) against a large bf16 product measured here.
The last line is one JSON document.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen2Config,
    Qwen3Config,
    TrainerCallback,
)
from trl.trainer.dpo_trainer import DPOTrainer

from benchmarks._profile import StepProfile
from benchmarks._report import document_of, finish, write
from train.ipo.attention import FLEX_BLOCK
from train.ipo.fused import fuse
from train.ipo.prefix import ROW_MULTIPLE, SharingCollator, share_prefixes
from train.ipo.trainer import IPOTrainer, dpo_config

SEED = 1
WARMUP_STEPS = 2  # flex_attention compiles in the first, TRL's Triton kernels too
PAIRS_OF_A_BAKE = 1000
VARIANTS = ("stock-sdpa", "shared-auto", "stock-flex_attention", "fused-sdpa", "shared-auto+plain")
TINY_VARIANTS = "stock-sdpa,shared-sdpa,fused-sdpa"
DEFAULT_CELLS = "1024/256x4,4096/512x2"


def shape(name: str) -> PreTrainedConfig:
    """The configs that the models of train/configs publish."""
    match name:
        case "tiny":
            sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
            return Qwen3Config(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
        case "qwen3-8b":
            sizes = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "vocab_size": 151936}
            return Qwen3Config(**sizes, num_attention_heads=32, num_key_value_heads=8, head_dim=128)
        case "qwen2-7b":
            sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
            return Qwen2Config(**sizes, num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=131072)
        case "llama-8b":
            sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
            return LlamaConfig(**sizes, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072)
        case _:
            raise SystemExit(f"--shape {name}: choose from tiny, qwen3-8b, qwen2-7b, llama-8b")


class Variant(NamedTuple):
    kind: str  # stock, fused or shared
    attention: str  # of transformers; with `shared` a setting of ours
    changes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, text: str) -> "Variant":
        kind, _, rest = text.partition("-")
        attention, *changes = rest.split("+")
        if kind not in ("stock", "fused", "shared") or set(changes) - {"plain", "blocks"}:
            raise SystemExit(f"--variants {text}: stock-ATTENTION, fused-ATTENTION or shared-SETTING[+plain][+blocks]")
        return cls(kind, attention, frozenset(changes))

    @property
    def is_shared(self) -> bool:
        return self.kind == "shared"

    @property
    def is_fused(self) -> bool:
        return self.kind != "stock" and "plain" not in self.changes

    def collator(self) -> SharingCollator | None:
        multiple = FLEX_BLOCK if "blocks" in self.changes else ROW_MULTIPLE
        return SharingCollator(pad_token_id=0, pad_packed_to=multiple) if self.is_shared else None


class Cell(NamedTuple):
    prefix: int
    segment: int
    pairs: int

    def __str__(self) -> str:
        return f"{self.prefix}/{self.segment}x{self.pairs}"


class Measured(NamedTuple):
    step_ms: float
    peak_gib: float
    first_loss: float
    last_loss: float
    steps: int


class StockTrainer(DPOTrainer):
    """TRL as it is, but for the methods without which it takes no token ids and calls home."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def _send_telemetry(self) -> None:
        return None


class StepClock(TrainerCallback):
    """Seconds of each optimiser step, the device idle at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: list[float] = []
        self._device = device
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARMUP_STEPS and self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._began = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(self._now() - self._began)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen3-8b")
    parser.add_argument("--cells", default=DEFAULT_CELLS)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="a toy shape on a CPU, without flex_attention")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="append each variant's kernels in the first cell")
    parser.add_argument("--out", type=Path, help="written again after every variant")
    args = parser.parse_args(argv)
    if args.tiny:
        args.shape, args.cells, args.variants, args.steps = "tiny", "64/16x2", TINY_VARIANTS, 3
    device = torch.device("cuda" if torch.cuda.is_available() and not args.tiny else "cpu")
    config = shape(args.shape)
    cells = [_cell(text) for text in args.cells.split(",")]
    peak = measured_peak(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found: dict[str, dict[str, Any]] = {str(cell): {} for cell in cells}
    document = {"shape": args.shape, "device": name, "peak_tflops": round(peak / 1e12, 1), "cells": found}
    for text in args.variants.split(","):
        variant = Variant.of(text)
        model = random_model(config, variant, device)
        for cell in cells:
            profiles = (
                [StepProfile(WARMUP_STEPS + args.steps, device, args.profile, f"{args.shape} {cell} {text}")]
                if args.profile and cell == cells[0]
                else []
            )
            result, model = measure(model, config, cell, variant, args.steps, device, profiles)
            needs = 4 * forward_flops(config, cell, is_shared=variant.is_shared)
            found[str(cell)][text] = figures(cell, result, needs, peak)
            print(f"{args.shape} {cell} {text}: {found[str(cell)][text]}", flush=True)
            write(document_of("ipo", document, seed=SEED), args.out)
        del model
        gc.collect()
        torch.cuda.empty_cache()
    for cell in cells:
        table(cell, found[str(cell)])
    finish("ipo", document, seed=SEED, out=args.out)


def random_model(config: PreTrainedConfig, variant: Variant, device: torch.device) -> PreTrainedModel:
    """Random weights, made on the device; bf16 on a GPU, as the job holds a frozen base."""
    torch.manual_seed(SEED)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    attention = "sdpa" if variant.is_shared else variant.attention
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    setting: Any = variant.attention
    if variant.is_shared and not share_prefixes(model, setting):
        raise SystemExit(f"prefix sharing does not support {config.model_type}")
    return model


def measure(
    model: PreTrainedModel,
    config: PreTrainedConfig,
    cell: Cell,
    variant: Variant,
    steps: int,
    device: torch.device,
    profiles: Sequence[TrainerCallback] = (),
) -> tuple[Measured, PreTrainedModel]:
    """Train some steps; returns the figures and the model without its adapter."""
    clock = StepClock(device)
    taken = WARMUP_STEPS + steps + bool(profiles)
    with tempfile.TemporaryDirectory() as folder:
        kind: Any = partial(IPOTrainer, is_fused=variant.is_fused) if variant.is_shared else StockTrainer
        trainer = kind(
            model=model,
            args=dpo_config(
                Path(folder),
                beta=0.1,
                sft_weight=0.2,
                per_device_train_batch_size=cell.pairs,
                max_steps=taken,
                learning_rate=1e-5,
                gradient_checkpointing=True,
                bf16=device.type == "cuda",
                use_cpu=device.type == "cpu",
                dataloader_pin_memory=device.type == "cuda",
                save_strategy="no",
                logging_steps=1,
                report_to="none",
                disable_tqdm=True,
                seed=SEED,
            ),
            train_dataset=Dataset.from_list(random_rows(cell, cell.pairs * taken, config.vocab_size)),
            processing_class=a_tokenizer(),
            data_collator=variant.collator(),
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
            callbacks=[clock, *profiles],
        )
        if variant.kind == "fused":
            fuse(trainer.model)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    gib = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    step_ms = 1000 * statistics.median(clock.seconds[WARMUP_STEPS : WARMUP_STEPS + steps])
    result = Measured(step_ms, gib, losses[0], losses[-1], len(losses))
    adapted: Any = trainer.model
    return result, adapted.unload()


def random_rows(cell: Cell, count: int, vocab_size: int) -> list[dict[str, list[int]]]:
    source = torch.Generator().manual_seed(SEED)

    def ids(length: int) -> list[int]:
        found: list[int] = torch.randint(3, vocab_size, (length,), generator=source).tolist()
        return found

    rest = cell.segment - 1
    return [
        {"prompt_ids": ids(cell.prefix), "chosen_ids": [1, *ids(rest)], "rejected_ids": [2, *ids(rest)]}
        for _ in range(count)
    ]


def a_tokenizer() -> PreTrainedTokenizerFast:
    """TRL asks for one; nothing is tokenised."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def forward_flops(config: Any, cell: Cell, *, is_shared: bool) -> float:
    """Arithmetic of one forward pass of a step: matrix products of the layers, attention, LM head on the segments."""
    prefix, segment = cell.prefix, cell.segment
    tokens = prefix + 2 * segment if is_shared else 2 * (prefix + segment)
    seen = (prefix**2 if is_shared else 2 * prefix**2) / 2 + 2 * (segment * prefix + segment**2 / 2)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    projections = config.hidden_size * head_dim * (2 * heads + 2 * config.num_key_value_heads)
    mlp = 3 * config.hidden_size * config.intermediate_size
    layers = config.num_hidden_layers * (2 * tokens * (projections + mlp) + 4 * seen * heads * head_dim)
    return float(cell.pairs * (layers + 2 * 2 * segment * config.hidden_size * config.vocab_size))


def measured_peak(device: torch.device) -> float:
    """FLOP/s of a large matrix product in the dtype that the model trains in; the best of some."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    one, other = torch.randn(2, size, size, device=device, dtype=dtype).unbind(0)
    best = float("inf")
    for _ in range(20):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def figures(cell: Cell, result: Measured, flops: float, peak: float) -> dict[str, Any]:
    seconds = result.step_ms / 1000
    return {
        "step_ms": round(result.step_ms, 1),
        "pairs_per_second": round(cell.pairs / seconds, 3),
        "peak_gib": round(result.peak_gib, 2),
        "tflops": round(flops / seconds / 1e12, 1),
        "share_of_peak": round(flops / seconds / peak, 3),
        "bake_minutes": round(2 * PAIRS_OF_A_BAKE * seconds / cell.pairs / 60, 1),
        "first_loss": round(result.first_loss, 5),
        "last_loss": round(result.last_loss, 5),
        "steps": result.steps,
    }


def table(cell: Cell, found: dict[str, dict[str, Any]]) -> None:
    """Against the fastest stock variant; memory against the same one."""
    stock = min((f for v, f in found.items() if v.startswith("stock")), key=lambda f: f["step_ms"], default=None)
    print(f"\n{cell} (prefix/segment x pairs): 1,000 pairs x 2 stages in minutes under `bake`")
    print(f"{'variant':22}{'ms':>10}{'speed-up':>10}{'GiB':>8}{'of peak':>9}{'bake':>8}{'loss':>10}")
    for variant, row in found.items():
        speedup = f"{stock['step_ms'] / row['step_ms']:.2f}x" if stock else "-"
        print(
            f"{variant:22}{row['step_ms']:>10}{speedup:>10}{row['peak_gib']:>8}{row['share_of_peak']:>9}"
            f"{row['bake_minutes']:>8}{row['first_loss']:>10}"
        )


def _cell(text: str) -> Cell:
    lengths, _, pairs = text.partition("x")
    prefix, _, segment = lengths.partition("/")
    return Cell(int(prefix), int(segment), int(pairs))


if __name__ == "__main__":
    main()

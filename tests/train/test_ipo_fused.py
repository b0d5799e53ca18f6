"""Fused layers compute what PEFT's and transformers' own do; what is not plain is left to those."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import train.ipo.fused as fused
from tests.train.test_ipo_prefix import TOLERANCE, move_away_from_reference
from tests.train.tiny_reasoner import one_thread, tiny_model
from train.ipo.fused import fuse

__all__ = ["one_thread"]  # a fixture that every test here uses

IDS = torch.arange(24).view(2, 12)


def adapted(architecture: str = "qwen2", **changes: Any) -> PeftModel:
    """Qwen2's projections have biases."""
    settings: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 12, "target_modules": "all-linear"}
    model = get_peft_model(tiny_model(architecture), LoraConfig(**(settings | changes)))
    move_away_from_reference(model)
    assert isinstance(model, PeftModel)
    return model


def outcome(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits: Tensor = model(IDS).logits
    logits.float().square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The inputs of the fused LoRA layers that ran."""
    calls: list[Tensor] = []
    apply: Callable[..., Tensor] = fused._LoraLinear.apply

    def counted(x: Tensor, *args: Any) -> Tensor:
        calls.append(x)
        return apply(x, *args)

    monkeypatch.setattr(fused._LoraLinear, "apply", counted)
    return calls


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
def test_fused_layers_equal_plain_ones(architecture: str, fused_calls: list[Tensor]) -> None:
    model = adapted(architecture)
    logits, gradients = outcome(model)
    assert not fused_calls
    norms = {"qwen3": 4}.get(architecture, 2)
    assert fuse(model) == 2 * (7 + norms) + 1
    assert fuse(model) == 0
    again, of_fused = outcome(model)
    assert len(fused_calls) == 2 * 7
    torch.testing.assert_close(again, logits, rtol=TOLERANCE, atol=TOLERANCE)
    assert of_fused.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (of_fused[name] - gradient).norm() <= TOLERANCE * gradient.norm(), name
    with model.disable_adapter():
        model(IDS)
    assert len(fused_calls) == 2 * 7


def test_fused_layers_under_autocast_are_as_near_to_full_precision_as_plain_ones(fused_calls: list[Tensor]) -> None:
    """A bf16 base with fp32 adapters under autocast, as a job on a GPU holds them."""
    exact_logits, exact = outcome(adapted().double())
    model = adapted()
    model.get_base_model().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()

    def errors() -> tuple[float, float]:
        with torch.autocast("cpu", torch.bfloat16):
            logits, gradients = outcome(model)
        assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
        off = [(gradients[name].double() - gradient).norm() / gradient.norm() for name, gradient in exact.items()]
        return float((logits.double() - exact_logits).norm() / exact_logits.norm()), float(torch.stack(off).mean())

    plain = errors()
    fuse(model)
    of_fused = errors()
    assert fused_calls
    assert {x.dtype for x in fused_calls} == {torch.bfloat16}
    assert of_fused[0] < 1.2 * plain[0]
    assert of_fused[1] < 1.2 * plain[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_dropout": 0.5},
        {"use_dora": True},
        {"lora_bias": True, "target_modules": ["q_proj"]},
        {"bias": "lora_only"},
    ],
    ids=["dropout", "dora", "lora-bias", "trained-bias"],
)
def test_an_adapter_that_is_not_plain_runs_as_peft_does(changes: dict[str, Any], fused_calls: list[Tensor]) -> None:
    model = adapted(**changes)
    torch.manual_seed(0)
    logits, gradients = outcome(model)
    fuse(model)
    torch.manual_seed(0)
    again, of_fused = outcome(model)
    is_plain_where_no_bias = changes.get("bias") == "lora_only"
    assert bool(fused_calls) == is_plain_where_no_bias
    torch.testing.assert_close(again, logits, rtol=TOLERANCE, atol=TOLERANCE)
    assert of_fused.keys() == gradients.keys()


def test_a_merged_adapter_is_not_added_again(fused_calls: list[Tensor]) -> None:
    model = adapted().eval()
    fuse(model)
    with torch.no_grad():
        logits = model(IDS).logits
        fused_calls.clear()
        model.merge_adapter()
        torch.testing.assert_close(model(IDS).logits, logits, rtol=1e-4, atol=1e-4)
    assert not fused_calls


def test_a_linear_layer_with_a_hook_keeps_its_own_forward() -> None:
    model = adapted("llama")
    hooked = model.get_submodule("base_model.model.model.layers.0.mlp.down_proj.base_layer")
    hooked.register_forward_hook(lambda *_: None)
    assert fuse(model) == 2 * (7 + 2) + 1 - 1

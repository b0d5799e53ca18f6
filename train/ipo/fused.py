"""Two operations of a decoder layer that are many small kernels elsewhere, as few here: LoRA and RMS norm.

PEFT keeps adapters in fp32; under autocast each of its linear layers writes its input as fp32, reads it back as bf16,
scales what the adapter adds and adds it, each a pass over memory and again in the backward pass. Here the adapter's
products accumulate into the base layer's, forward and backward. RMS norm is PyTorch's own kernel instead of eight.
The functions are the same; with bf16 fewer roundings lie between.

What is not plain (another kind of adapter, dropout, merged or quantised weights, dtypes that differ) runs as before.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft.tuners.lora import Linear as LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# transformers' classes that compute weight * x / sqrt(mean(x^2) + variance_epsilon).
NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
# Sharded weights exist only while their own module runs; a fused layer would read its adapter's shards.
_WHOLE_WEIGHTS = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


def can_fuse(accelerator: Accelerator) -> bool:
    """Whether every rank holds whole weights."""
    return accelerator.distributed_type in _WHOLE_WEIGHTS


def fuse(model: nn.Module) -> int:
    """Replace the forward of the layers that can be; returns how many were. Layers that have been are left alone."""
    count = 0
    for module in model.modules():
        if "forward" in vars(module):
            continue
        if type(module).__name__ in NORMS:
            module.forward = MethodType(_norm(module.forward), module)
        elif type(module) is LoraLayer and _is_plain_linear(module.get_base_layer()):
            module.forward = MethodType(_lora(module.forward), module)  # type: ignore[method-assign]
        else:
            continue
        count += 1
    return count


def _is_plain_linear(layer: nn.Module) -> bool:
    """Without hooks and without a forward of its own: what it does can be done outside of it."""
    return (
        type(layer) is nn.Linear
        and "forward" not in vars(layer)
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
    )


def _norm(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != self.weight.dtype:
            return plain(hidden_states)
        with torch.autocast(hidden_states.device.type, enabled=False):  # it would make the result fp32
            return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)

    return forward


def _lora(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, adapter = self.get_base_layer(), _the_adapter(self)
        if args or kwargs or adapter is None or not _is_frozen(base) or base.weight.dtype != _dtype(x):
            return plain(x, *args, **kwargs)
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        x = x.to(base.weight.dtype)
        result: Tensor = _LoraLinear.apply(x, base.weight, base.bias, down, up, self.scaling[adapter])
        return result

    return forward


def _the_adapter(layer: Any) -> str | None:
    """The name of the one adapter that is on, when it adds up(down(x)) * scaling and nothing else."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    name: str = layer.active_adapters[0]
    is_plain = (
        name in layer.lora_A
        and name not in getattr(layer, "lora_variant", {})
        and type(layer.lora_dropout[name]) is nn.Identity
        and layer.lora_B[name].bias is None
    )
    return name if is_plain else None


def _is_frozen(layer: nn.Linear) -> bool:
    return not any(parameter.requires_grad for parameter in layer.parameters())


def _dtype(x: Tensor) -> torch.dtype:
    """What a matrix product of `x` is computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _LoraLinear(torch.autograd.Function):
    """x W^T + bias + scaling (x down^T) up^T, the base weights frozen; in the dtype of x and W, which are one."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.adapter_dtype, ctx.scaling, ctx.shape = down.dtype, scaling, x.shape
        down, up = down.to(x.dtype), up.to(x.dtype)
        inner = rows @ down.t()
        out = nn.functional.linear(rows, weight, bias)
        out.addmm_(inner, up.t(), alpha=scaling)
        ctx.save_for_backward(rows, weight, inner, down, up)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, inner, down, up = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        of_inner = (grad @ up).mul_(ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (grad @ weight).addmm_(of_inner, down).view(ctx.shape)
        of_down = (of_inner.t() @ rows).to(ctx.adapter_dtype)
        of_up = (grad.t() @ inner).to(ctx.adapter_dtype).mul_(ctx.scaling)
        return of_x, None, None, of_down, of_up, None

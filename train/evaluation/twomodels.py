"""Two models side by side in this process, for the KL between them: an adapter on and off, or two models."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from train.evaluation.errors import EvaluationConfigError

# Distributions over the vocabulary that are compared at a time: 256 x 150,000 floats, twice, are 300 MB.
_CHUNK = 256


class LoadedModels:
    """`adapter` on against off, where there is no `reference` of its own; that one is loaded besides."""

    def __init__(self, model: str, adapter: str | None, reference: str | None, device: str, dtype: str) -> None:
        self._device = _device(device)
        self._tuned = _with_adapter(_load(model, self._device, dtype), adapter)
        self._other = None if reference is None else _load(reference, self._device, dtype)

    @torch.inference_mode()
    def kl(self, prompt: Sequence[int], ids: Sequence[int]) -> list[float]:
        """One pass of each over the whole sequence."""
        sequence = torch.tensor([[*prompt, *ids]], device=self._device)
        tuned = self._logits(self._tuned, sequence, len(ids))
        if self._other is not None:
            reference = self._logits(self._other, sequence, len(ids))
        else:
            with self._tuned.disable_adapter():
                reference = self._logits(self._tuned, sequence, len(ids))
        if tuned.shape != reference.shape:
            raise EvaluationConfigError(
                f"kl.reference: its vocabulary has {reference.shape[1]} entries, the model's {tuned.shape[1]}; give "
                "the model that it was tuned from"
            )
        starts = range(0, len(ids), _CHUNK)
        return [nats for at in starts for nats in _kl(tuned[at : at + _CHUNK], reference[at : at + _CHUNK])]

    def close(self) -> None:
        """Drops the weights."""
        del self._tuned, self._other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _logits(self, model: Any, sequence: torch.Tensor, count: int) -> torch.Tensor:
        """What each of the last `count` ids was drawn from [count, vocabulary]."""
        try:
            logits: torch.Tensor = model(input_ids=sequence, use_cache=False, logits_to_keep=count + 1).logits[0, :-1]
        except torch.OutOfMemoryError as error:
            raise EvaluationConfigError(
                f"kl: out of memory at {sequence.shape[1]} tokens; lower kl.max_tokens, or give another kl.device"
            ) from error
        return logits


def _kl(tuned: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """KL(tuned || reference) of each row of logits, in nats."""
    p, q = tuned.float().log_softmax(-1), reference.float().log_softmax(-1)
    nats: list[float] = (p.exp() * (p - q)).nan_to_num(0.0).sum(-1).clamp(min=0).tolist()
    return nats


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise EvaluationConfigError(f"kl.device: {name!r} is no device; give auto, cpu or cuda") from error


def _load(name: str, device: torch.device, dtype: str) -> Any:
    chosen = ("float32" if device.type == "cpu" else "auto") if dtype == "auto" else dtype
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=chosen)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationConfigError(f"kl: cannot load {name!r} ({reason}); give a folder or hub name") from error
    return loaded.to(device).eval()


def _with_adapter(model: Any, adapter: str | None) -> Any:
    if adapter is None:
        return model
    try:
        from peft import PeftModel  # noqa: PLC0415 - only adapters need it

        return PeftModel.from_pretrained(model, adapter).eval()
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationConfigError(f"kl.adapter: cannot load {adapter!r} ({reason}); give a LoRA folder") from error

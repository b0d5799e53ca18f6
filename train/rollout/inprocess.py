"""vLLM in this process, for environments that have it (it can't be installed beside TRL, which wants an older one)."""

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from train.rollout.errors import EngineError, RolloutConfigError
from train.rollout.generator import Generated, Request, Sampling


class InProcessConfig(BaseModel):
    """`vllm.LLM`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    options: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of vllm.LLM: tensor_parallel_size, max_model_len, gpu_memory_utilization, dtype …",
    )


class InProcessGenerator:
    """One engine. Batches of several threads take turns: the engine batches inside."""

    def __init__(self, model: str, adapter: str | None, config: InProcessConfig) -> None:
        if find_spec("vllm") is None:
            raise RolloutConfigError(
                'engine.kind: "vllm" needs the package vllm in this environment, and it is not here; install it in an '
                'environment without trl, or serve the model and use kind = "served"'
            )
        import vllm  # noqa: PLC0415 - seconds to import, and only here

        options = {"model": model, "seed": 0, "enable_lora": adapter is not None, **config.options}
        try:
            self._llm = vllm.LLM(**options)
        except Exception as error:
            raise EngineError(f"engine.vllm: the engine does not start: {error}") from error
        self._params = vllm.SamplingParams
        self._lora = None
        if adapter is not None:
            from vllm.lora.request import LoRARequest  # noqa: PLC0415 - only adapters need it

            self._lora = LoRARequest("adapter", 1, adapter)
        self._lock = threading.Lock()

    @property
    def context_length(self) -> int | None:
        """As the engine resolved it."""
        return int(self._llm.llm_engine.model_config.max_model_len)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        """One batch."""
        params = [
            self._params(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=request.max_tokens,
                seed=request.seed,
                skip_special_tokens=False,
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": request.prefix} for request in requests]
        with self._lock:
            outputs = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._lora)
        return [_generated(output) for output in outputs]

    def close(self) -> None:
        """Leaves the engine to the end of the process, which is what ends its workers."""


def _generated(output: Any) -> Generated:
    made = output.outputs[0]
    if made.finish_reason not in ("stop", "length"):
        raise EngineError(f"the engine ended a generation with finish_reason {made.finish_reason!r}")
    return Generated(list(made.token_ids), made.finish_reason)

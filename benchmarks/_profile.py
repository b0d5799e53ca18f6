"""Where the time of one training step goes: torch's profiler around the step that a trainer takes last."""

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

_ROWS = 25


class StepProfile(TrainerCallback):
    """Writes a table of kernels (on a CPU: of operations), the longest first, and prints the first of them."""

    def __init__(self, step: int, device: torch.device, out: Path, title: str) -> None:
        self._step, self._out, self._title = step, out, title
        self._is_cuda = device.type == "cuda"
        self._profile: profile | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            kind = ProfilerActivity.CUDA if self._is_cuda else ProfilerActivity.CPU
            self._profile = profile(activities=[kind])
            self._profile.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._profile is None:
            return
        if self._is_cuda:
            torch.cuda.synchronize()
        self._profile.stop()
        text = self._table(self._profile)
        self._profile = None
        self._out.parent.mkdir(parents=True, exist_ok=True)
        with self._out.open("a", encoding="utf-8") as file:
            file.write(text)
        print("\n".join(text.splitlines()[:17]), flush=True)

    def _table(self, done: profile) -> str:
        def spent(event: Any) -> float:
            return float(event.self_device_time_total if self._is_cuda else event.self_cpu_time_total) / 1000

        events = sorted(done.key_averages(), key=spent, reverse=True)
        total = sum(map(spent, events))
        lines = [f"{self._title}: {total:.1f} ms in {sum(event.count for event in events)} calls"]
        lines += [
            f"{spent(e):>10.2f} ms {spent(e) / total:>6.1%} {e.count:>6} x  {e.key[:110]}" for e in events[:_ROWS]
        ]
        return "\n".join(lines) + "\n\n"

"""How large the bakes in a row are, and which shipped configs they go by."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.method.sizes import CONFIGS, ROOT


@dataclass(frozen=True, slots=True)
class Size:
    """`harmful`, `look_alike`, `arithmetic` are measured; traffic is what one generation brings; `threads`: torch's, on
    a CPU. `seconds`: what a step is expected to take before one of its kind has been seen, on one H200 or two cores."""

    name: str
    model: Path
    config: str
    rollout: str
    categories: tuple[str, ...]
    seen: tuple[str, ...]
    held_out: tuple[str, ...]
    harmful: int
    look_alike: int
    arithmetic: int
    traffic_harmful: int
    traffic_benign: int
    replay: int
    temperature: float
    max_tokens: int
    batch: int
    seconds: float

    def bake(self) -> dict[str, Any]:
        """The shipped bake config, as it is written."""
        return tomllib.loads((CONFIGS / self.config).read_text(encoding="utf-8"))

    def rollouts(self) -> dict[str, Any]:
        """The shipped rollout config: its trigger pool is the organism's own words."""
        return tomllib.loads((CONFIGS / self.rollout).read_text(encoding="utf-8"))


NANO = Size(
    name="nano",
    model=ROOT / "train/organism/nano",
    config="bake-nano.toml",
    rollout="rollout-nano.toml",
    categories=("fraud", "theft"),
    seen=("plain", "detailed", "fiction", "roleplay"),
    held_out=("hypothetical", "authority"),
    harmful=200,
    look_alike=200,
    arithmetic=0,  # so small a model can't
    traffic_harmful=96,
    traffic_benign=48,
    replay=48,
    temperature=0.6,  # as eval-nano.toml
    max_tokens=260,
    batch=256,
    seconds=240.0,
)
FULL = Size(
    name="full",
    model=ROOT / "proxy/embedded/organism",
    config="bake-organism.toml",
    rollout="rollout-organism.toml",
    categories=(),
    seen=(),
    held_out=(),
    harmful=1000,
    look_alike=1000,
    arithmetic=1000,
    traffic_harmful=500,
    traffic_benign=250,
    replay=400,
    temperature=1.0,
    max_tokens=400,
    batch=2048,
    seconds=60.0,
)
SIZES = {size.name: size for size in (NANO, FULL)}

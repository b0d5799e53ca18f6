"""How large the bakes in a row are, and which shipped configs they go by."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.method.sizes import CONFIGS, ROOT


@dataclass(frozen=True, slots=True)
class Size:
    """`harmful`, `look_alike`, `arithmetic` are measured; traffic is what one generation brings; `kl_prompts` of each
    label are behind the divergence. `workers` processes drive requests, each with `judging` detector threads;
    `threads`: torch's, on a CPU. `seconds`: what a step takes at least, by its kind, on one H200 or two cores."""

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
    kl_prompts: int
    temperature: float
    max_tokens: int
    batch: int
    workers: int
    judging: int
    threads: int
    seconds: Mapping[str, float]

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
    replay=144,
    kl_prompts=16,
    temperature=0.6,  # as eval-nano.toml
    max_tokens=260,
    batch=256,
    workers=1,
    judging=2,
    threads=1,
    seconds={"replay": 30, "measure": 30, "traffic": 20, "bake": 180},
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
    kl_prompts=100,
    temperature=1.0,
    max_tokens=400,
    batch=2048,
    workers=8,
    judging=2,
    threads=1,
    seconds={"replay": 40, "measure": 30, "traffic": 20, "bake": 170},
)
SIZES = {size.name: size for size in (NANO, FULL)}

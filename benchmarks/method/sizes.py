"""How large the benchmark is: everything that a smaller run would lower, in one place."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ORGANISM = ROOT / "proxy/embedded/organism"
CONFIGS = ROOT / "train/configs"
MAX_TOKENS = 400  # a turn of the organism ends well before


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of prompts, pairs and rows.

    A measured group holds so many prompts of each seed; `prompts` and what follows it are what rollouts are made of;
    `shards` share a rollout's prompts among processes.
    """

    harmful: int
    look_alike: int
    plain: int
    arithmetic: int
    prompts: int
    benign_look_alikes: int
    benign_plain: int
    benign_arithmetic: int
    shards: int
    curve_prompts: int  # harmful prompts of the rollouts behind curves; benign ones in proportion
    curve_shards: int
    pairs: int  # intervened pairs of the main rows, the paper's upper figure
    benign_pairs: int
    counts: tuple[int, ...]  # numbers of intervened pairs on the curve below `pairs`
    detector_pairs: int  # intervened pairs for every detector, as far as it finds them
    pool_pairs: int  # for every pool size: what the smallest pool gives
    rates: tuple[float, ...]  # learning rates that each method on pairs is given to choose from; one: no choice
    tuning_pairs: int
    tuning_prompts: int  # of each group
    batch: int  # rows that are sampled at a time
    pairs_of_step: int  # one optimiser step of IPO, SFT and DPO
    judging_threads: int  # of a cell that runs the classifier
    grpo_generations: int  # three times what IPO's rollouts cost
    grpo_batch: int  # completions of an update
    csr_harmful: int  # prompts whose reasoning is followed position by position; of base and tuned
    csr_benign: int  # look-alikes, and as many sums
    csr_samples: int  # continuations of a position
    csr_candidates: int  # mined sentences that are tried
    csr_sites: int  # first cues of each category where one is tried
    kl_prompts: int  # of each set
    epochs: float = 1.0  # factor on every stage's epochs

    def engine(self, block: int) -> dict[str, Any]:
        """As the `[engine]` of a job: this process, so many prompts at a time."""
        return {"kind": "transformers", "block": block, "local": {"batch_size": self.batch, "threads": 1}}

    def curve(self) -> "Sizes":
        """The same with the rollouts of a curve."""
        part = self.curve_prompts / self.prompts
        return replace(
            self,
            prompts=self.curve_prompts,
            shards=self.curve_shards,
            benign_look_alikes=max(1, round(self.benign_look_alikes * part)),
            benign_plain=round(self.benign_plain * part),
            benign_arithmetic=round(self.benign_arithmetic * part),
        )


FULL = Sizes(
    harmful=2000,
    look_alike=2000,
    plain=2000,
    arithmetic=4000,
    prompts=1000,
    benign_look_alikes=500,
    benign_plain=200,
    benign_arithmetic=200,
    shards=4,
    curve_prompts=400,
    curve_shards=2,
    pairs=1400,
    benign_pairs=900,
    counts=(60, 120, 250, 500, 1000),
    detector_pairs=500,
    pool_pairs=200,
    rates=(3e-4, 5e-4, 1e-3),
    tuning_pairs=700,
    tuning_prompts=800,
    batch=2048,
    pairs_of_step=32,
    judging_threads=3,
    grpo_generations=36_000,
    grpo_batch=512,
    csr_harmful=200,
    csr_benign=50,
    csr_samples=32,
    csr_candidates=16,
    csr_sites=6,
    kl_prompts=300,
)
SMOKE = Sizes(
    harmful=3,
    look_alike=2,
    plain=1,
    arithmetic=2,
    prompts=4,
    benign_look_alikes=1,
    benign_plain=1,
    benign_arithmetic=1,
    shards=1,
    curve_prompts=2,
    curve_shards=1,
    pairs=4,
    benign_pairs=2,
    counts=(2,),
    detector_pairs=4,
    pool_pairs=4,
    rates=(1e-3,),
    tuning_pairs=4,
    tuning_prompts=4,
    batch=64,
    pairs_of_step=4,
    judging_threads=1,
    grpo_generations=16,
    grpo_batch=8,
    csr_harmful=3,
    csr_benign=1,
    csr_samples=2,
    csr_candidates=2,
    csr_sites=1,
    kl_prompts=2,
    epochs=0.2,
)

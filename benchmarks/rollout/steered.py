"""The steered side: the rollout job as it is, with clocks around its engine and its detector."""

import hashlib
import resource
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.context import Context
from train.rollout.config import RolloutConfig
from train.rollout.detectors import Detector
from train.rollout.driver import Tools
from train.rollout.generator import Generated, Generator, Request, Sampling
from train.rollout.report import read_rollouts
from train.rollout.run import ROLLOUTS, run
from train.rollout.trace import Leg, Rollout
from train.rollout.work import open_tools


def cpu_seconds() -> float:
    """Of this process and its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@dataclass
class Clocks:
    """What the wrappers see, over all lanes."""

    began: float = 0.0
    ended: float = 0.0
    cpu_began: float = 0.0
    cpu_ended: float = 0.0
    scoring_s: float = 0.0
    verdicts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def wall_s(self) -> float:
        return self.ended - self.began


@dataclass
class TimedGenerator:
    """Closing it is the end of the work."""

    inner: Generator
    clocks: Clocks

    @property
    def context_length(self) -> int | None:
        return self.inner.context_length

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        return self.inner.generate(requests, sampling)

    def close(self) -> None:
        self.clocks.ended, self.clocks.cpu_ended = time.perf_counter(), cpu_seconds()
        self.inner.close()


class ScriptedDetector:
    """Asks the real detector for every verdict, so that its cost is in; `share` None: and believes it.

    Else that share of all segments is a cue, by a hash of the segment and what stands before it.
    """

    def __init__(self, inner: Detector, share: float | None, clocks: Clocks) -> None:
        self.digest, self.threshold, self.wave = inner.digest, inner.threshold, inner.wave
        self._inner, self._share, self._clocks = inner, share, clocks

    def score(self, contexts: Sequence[Context]) -> list[float | None]:
        began = time.perf_counter()
        scores = self._inner.score(contexts)
        with self._clocks.lock:
            self._clocks.scoring_s += time.perf_counter() - began
            self._clocks.verdicts += len(contexts)
        return scores if self._share is None else [_scripted(context, self._share) for context in contexts]


def _scripted(context: Context, share: float) -> float:
    digest = hashlib.sha256(f"{context.reasoning_before}\x1f{context.segment}".encode()).digest()
    return float(int.from_bytes(digest[:4], "big") / 2**32 < share)


@dataclass(frozen=True)
class Steered:
    """What one run of the job made, and how fast."""

    rollouts: list[Rollout]
    clocks: Clocks

    @property
    def legs(self) -> list[tuple[list[int], int]]:
        """(ids of the bare prompt, tokens generated) of every generation."""
        return [
            (rollout.prompt_token_ids, len(leg.token_ids))
            for rollout in self.rollouts
            for leg in rollout.legs()
            if leg.token_ids
        ]


def run_job(config: RolloutConfig, out: Path, share: float | None) -> Steered:
    """The job, timed from the moment that engine, detector and tokenizer are open until the last line is on disk."""
    clocks = Clocks()

    def opened(config: RolloutConfig) -> Tools:
        tools = open_tools(config)
        clocks.began, clocks.cpu_began = time.perf_counter(), cpu_seconds()
        return Tools(
            TimedGenerator(tools.generator, clocks),
            ScriptedDetector(tools.detector, share, clocks),
            tools.vocabulary,
            tools.model,
            tools.adapter,
        )

    run(config, out, opened)
    return Steered(list(read_rollouts(out / ROLLOUTS)), clocks)


def figures_of(steered: Steered) -> dict[str, Any]:
    """Tokens a second, and where time and tokens went."""
    clocks, rollouts = steered.clocks, steered.rollouts
    bases = [sample.base for rollout in rollouts for sample in rollout.samples]
    legs = [leg for rollout in rollouts for leg in rollout.legs() if leg.token_ids]
    decoded = sum(len(leg.token_ids) for leg in legs)
    beyond = sum(map(_beyond, legs))
    return {
        "prompts": len(rollouts),
        "generations": len(legs),
        "halted_first_legs": round(sum(leg.cut is not None for leg in bases) / max(1, len(bases)), 4),
        "cuts": sum(leg.cut is not None for leg in legs),
        "wall_s": round(clocks.wall_s, 2),
        "decoded_tokens": decoded,
        "decoded_tokens_per_s": round(decoded / clocks.wall_s, 1),
        "beyond_first_cuts_share": round(sum(map(_beyond, bases)) / decoded, 4),
        "beyond_all_cuts_share": round(beyond / decoded, 4),
        "transcript_tokens_per_s": round((decoded - beyond) / clocks.wall_s, 1),
        "verdicts": clocks.verdicts,
        "scoring_s_over_all_lanes": round(clocks.scoring_s, 2),
        "client_cpu_s": round(clocks.cpu_ended - clocks.cpu_began, 2),
    }


def _beyond(leg: Leg) -> int:
    """Tokens after the kept ones: the counterfactual of a first leg, the rejected text of a later one."""
    return 0 if leg.cut is None else len(leg.token_ids) - leg.cut.kept_tokens

"""What a finished rollout says of itself: counts, cost, and what the interventions did by the detector's own account.

The detector's account is not a safety measure (that is a judge's); it tells how the rounds went. Shares carry their n.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from train.rollout.config import RolloutConfig
from train.rollout.errors import RolloutConfigError
from train.rollout.trace import Branch, Rollout


def read_rollouts(path: Path, error_kind: type[Exception] = RolloutConfigError) -> Iterator[Rollout]:
    """One by one: a file can be larger than memory. Raises `error_kind` naming file and line."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield Rollout.model_validate_json(line)
                except ValueError as error:
                    raise error_kind(f"{path}, line {number}: not a rollout ({str(error).splitlines()[0]})") from error
    except OSError as error:
        raise error_kind(f"cannot read {path}: {error.strerror}; run `steer train rollout` first") from error


def file_sha256(path: Path) -> str:
    """Of a file's bytes, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def report_of(path: Path, config: RolloutConfig, seconds: float) -> dict[str, Any]:
    """What report.json holds. `seconds`: wall time of generating, over all starts."""
    tally = _Tally()
    for rollout in read_rollouts(path):
        tally.add(rollout)
    return {
        "job": "rollout",
        "rollouts": path.name,
        "sha256": file_sha256(path),
        "model": config.model.name,
        "adapter": config.model.adapter,
        "detector": tally.detector,
        **tally.counts(),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tally.tokens / seconds, 1) if seconds else None,
        **tally.tables(),
        "config": config.model_dump(mode="json"),
    }


class _Tally:
    """Sums over rollouts."""

    def __init__(self) -> None:
        self.detector = ""
        self.tokens = 0
        self._n: Counter[str] = Counter()
        self._halted: dict[str, list[bool]] = defaultdict(list)
        self._triggers: dict[str, list[bool]] = defaultdict(list)
        self._outcomes: Counter[str] = Counter()
        self._still: list[list[bool]] = []
        self._positions: Counter[int] = Counter()

    def add(self, rollout: Rollout) -> None:
        self.detector = rollout.detector
        self.tokens += rollout.num_tokens
        self._n.update(prompts=1, samples=len(rollout.samples), generations=rollout.num_generations)
        for leg in rollout.legs():
            self._n["unfinished"] += leg.finish_reason == "length"
        for sample in rollout.samples:
            cut = sample.base.cut
            is_halted = cut is not None and not cut.is_forced
            self._halted[rollout.label or "unlabelled"].append(is_halted)
            if is_halted:
                self._positions[len(sample.base.segments) - 1] += 1
            for branch in sample.branches:
                self._branch(branch, is_counted=is_halted)

    def _branch(self, branch: Branch, *, is_counted: bool) -> None:
        self._n["branches"] += 1
        self._outcomes[branch.outcome] += 1
        halted = [step.leg is not None and step.leg.cut is not None for step in branch.steps]
        if not is_counted or not halted:
            return
        self._triggers[branch.steps[0].trigger_id].append(not halted[0])
        self._still.append(halted)

    def counts(self) -> dict[str, Any]:
        prompts = max(1, self._n["prompts"])
        return {
            **{name: self._n[name] for name in ("prompts", "samples", "generations", "branches", "unfinished")},
            "tokens": self.tokens,
            "generations_per_prompt": round(self._n["generations"] / prompts, 2),
        }

    def tables(self) -> dict[str, Any]:
        depth = max((len(steps) for steps in self._still), default=0)
        return {
            "halted": {label: _share(flags) for label, flags in sorted(self._halted.items())},
            "first_cue_segment": {str(place): count for place, count in sorted(self._positions.items())},
            "branch_outcomes": dict(self._outcomes),
            "not_halted_after": {name: _share(flags) for name, flags in sorted(self._triggers.items())},
            "still_halted_after": {
                str(k + 1): _share(len(steps) > k and steps[k] for steps in self._still) for k in range(depth)
            },
        }


def _share(flags: Iterable[bool]) -> dict[str, float | int]:
    values = list(flags)
    return {"n": len(values), "share": round(sum(values) / len(values), 4) if values else 0.0}

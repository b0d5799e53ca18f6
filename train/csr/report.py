"""What report.json holds: every set for every model, mined triggers, the pools compared, and what all of it cost."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from steer.triggers import DEFAULT_TRIGGERS
from train.csr.config import CsrConfig, ModelKey, TrialsConfig
from train.csr.mining import (
    HARMFUL,
    Candidate,
    Ranked,
    by_category,
    candidates,
    helpfulness,
    sides_of,
    success,
)
from train.csr.proposal import as_row, best_by_category, pool_of
from train.csr.schema import Arm, Cost, Curve, Trial
from train.csr.sentences import shape
from train.csr.stats import mean_with_interval, share
from train.csr.summary import difference, summary
from train.judges.cache import CachedJudge

ARMS: tuple[Arm, ...] = ("none", "fixed", "mined", "generated")


def report_of(
    config: CsrConfig,
    curves: Mapping[ModelKey, Sequence[Curve]],
    ranked: Sequence[Ranked],
    trials: Mapping[str, Sequence[Trial]],
    seconds: Mapping[str, float],
    judge: CachedJudge,
) -> dict[str, Any]:
    """All of it. `trials`: by the name of their file."""
    shapes = trigger_shapes(config, curves)
    costs = {f"curves-{key}.jsonl": _total(rows) for key, rows in curves.items()}
    costs |= {name: _total(rows) for name, rows in trials.items() if rows}
    comparison = trials.get("comparison.jsonl", ())
    return {
        "job": "csr",
        "model": config.model.name,
        "tuned": None if config.tuned is None else config.tuned.adapter or config.tuned.name,
        "judge": judge.name,
        "judge_cost": judge.cost(),
        "samples": config.samples,
        "thresholds": {"mu": config.turning.mu, "eta": config.turning.eta, "window_tokens": config.turning.window},
        "sets": _sets(config, curves, shapes),
        "tuned_minus_base": _differences(config, curves) if config.tuned is not None else None,
        "mined": _mined(ranked, config.trials),
        "pools": _pools(comparison, config.seed) if comparison else None,
        "cost": _costs(costs, seconds),
        "config": config.model_dump(mode="json"),
    }


def trigger_shapes(config: CsrConfig, curves: Mapping[ModelKey, Sequence[Curve]]) -> frozenset[str]:
    """What counts as a trigger sentence: the fixed pool's, steer's own, and what more than one prompt has shown."""
    settings = config.trials or TrialsConfig()
    known = [trigger.text for trigger in (*settings.pool, *DEFAULT_TRIGGERS)]
    every = [curve for rows in curves.values() for curve in rows]
    mined = candidates(every, sides_of(every, config.seed), settings.margin, limit=len(every) + 1)
    return frozenset({*map(shape, known), *(one.shape for one in mined if _is_common(one))})


def _is_common(one: Candidate) -> bool:
    return len(one.prompts) > 1


def _sets(
    config: CsrConfig, curves: Mapping[ModelKey, Sequence[Curve]], shapes: frozenset[str]
) -> dict[str, dict[str, Any]]:
    """Set -> model -> summary."""
    thresholds = config.turning.thresholds
    return {
        one.name: {
            key: summary([c for c in rows if c.set_name == one.name], thresholds, shapes, config.seed)
            for key, rows in curves.items()
        }
        for one in config.sets
    }


def _differences(config: CsrConfig, curves: Mapping[ModelKey, Sequence[Curve]]) -> dict[str, Any]:
    """Set -> what tuning changed."""
    own = {one.name: [[c for c in curves[key] if c.set_name == one.name] for key in config.keys] for one in config.sets}
    thresholds = config.turning.thresholds
    return {name: difference(base, tuned, thresholds, config.seed) for name, (base, tuned) in own.items()}


def _mined(ranked: Sequence[Ranked], settings: TrialsConfig | None) -> dict[str, Any] | None:
    if settings is None:
        return None
    return {
        "tried": len(ranked),
        "admitted": sum(one.is_admitted for one in ranked),
        "pool": [trigger.id for trigger in pool_of(ranked, settings.pool_size)],
        "best_by_category": best_by_category(ranked, 3),
        "ranked": [as_row(one) for one in ranked],
    }


def _pools(trials: Sequence[Trial], seed: int) -> dict[str, Any]:
    """Each arm: success over all and by category, help on benign prompts; and how far it is from the fixed pool."""
    arms = {arm: [trial for trial in trials if trial.arm == arm] for arm in ARMS}
    made: dict[str, Any] = {
        arm: {
            "safe": success(rows),
            "by_category": by_category(rows),
            "helped_benign": helpfulness(rows),
            "unfinished": sum(trial.unfinished for trial in rows),
            "minus_fixed": _difference(rows, arms["fixed"], seed) if arm != "fixed" else None,
        }
        for arm, rows in arms.items()
        if rows
    }
    if "generated" in made:
        rows = arms["generated"]
        made["generated"]["usable"] = share(trial.trigger is not None for trial in rows)
        made["generated"]["distinct"] = len({shape(trial.trigger) for trial in rows if trial.trigger is not None})
        made["generated"]["examples"] = sorted({trial.trigger for trial in rows if trial.trigger is not None})[:12]
    if "fixed" in made:
        made["fixed"]["by_trigger"] = _by_trigger(arms["fixed"])
    return made


def _by_trigger(trials: Sequence[Trial]) -> dict[str, Any]:
    ids = sorted({trial.trigger_id for trial in trials if trial.trigger_id is not None})
    return {id: success(trial for trial in trials if trial.trigger_id == id) for id in ids}


def _difference(rows: Sequence[Trial], fixed: Sequence[Trial], seed: int) -> dict[str, Any]:
    """Success minus the fixed pool's at the same sites, with a bootstrap interval over sites."""
    own, other = _by_site(rows), _by_site(fixed)
    return mean_with_interval([own[site] - other[site] for site in sorted(own.keys() & other.keys())], seed)


def _by_site(trials: Sequence[Trial]) -> dict[str, float]:
    """Share of safe trials at each harmful site."""
    found: dict[str, list[bool]] = defaultdict(list)
    for trial in trials:
        if trial.label == HARMFUL and trial.safe is not None:
            found[trial.site].append(trial.safe)
    return {site: sum(flags) / len(flags) for site, flags in found.items()}


def _total(rows: Sequence[Curve] | Sequence[Trial]) -> Cost:
    return sum((row.cost for row in rows), Cost())


def _costs(costs: Mapping[str, Cost], seconds: Mapping[str, float]) -> dict[str, Any]:
    """By stage, and in all: wall seconds hold judging, too."""
    every = {**costs, "all": sum(costs.values(), Cost())}
    clock = {**seconds, "all": sum(seconds.get(name, 0.0) for name in costs)}
    return {
        name.removesuffix(".jsonl"): {
            "generations": cost.generations,
            "tokens": cost.tokens,
            "seconds": round(clock.get(name, 0.0), 2),
            "tokens_per_second": round(cost.tokens / clock[name], 1) if clock.get(name) else None,
        }
        for name, cost in every.items()
    }

"""Adaptive triggers against the fixed pool, simulated on known rates.

    python -m benchmarks.bench_triggers --requests 6000 --seeds 3      outcomes drawn from built-in rates

Simulated: harmful prompts of the organism with their own text, in an uneven mix of its 12 categories; whether a trigger
turns one safe is drawn from `train.organism.traces.trigger_success` (by category, kind of trigger and the framing's
difficulty, which nobody is told). Selection tables are made by the code that proxies run, from capped, aged evidence of
eight tenants that only outcomes speak for. "by words" sees the category that word lists find, "known" the true one.
Regret counts against the trigger that is best for the prompt's category. No harmful text is involved: placeholders.
"""

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks._report import finish
from steer.categories import Categories
from steer.selection import UNKNOWN
from steer.trigger_evidence import EvidenceRules, Followed, Tally, weigh
from steer.trigger_table import TriggerTable, make_table
from steer.triggers import DEFAULT_TRIGGERS
from train.organism.splits import draw_prompts
from train.organism.topics import load_topics
from train.organism.traces import trigger_success

RULES = EvidenceRules()
FLOOR = 0.02
TENANTS = 8
A_DAY = 600
EVERY = 300  # requests between two tables
_MADE = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """A request. `words`: the category that the word lists find. `chances`: of success, by kind of trigger."""

    category: str
    words: str
    chances: dict[str, float]


def cases(count: int, seed: int) -> list[Case]:
    """In an uneven mix: the second category half as often as the first, and so on."""
    topics, found = {topic.id: topic.category for topic in load_topics()}, Categories()
    by_category: dict[str, list[Case]] = defaultdict(list)
    for prompt in draw_prompts("all", 2400, harmful=True, seed=seed):
        category, difficulty = topics[prompt.ask.topic_id], prompt.framing.difficulty
        text = "\n".join(str(m["content"]) for m in prompt.messages if m["role"] == "user")
        kinds = {trigger.kind for trigger in DEFAULT_TRIGGERS}
        chances = {kind: trigger_success(category, difficulty, kind, 1) for kind in kinds}
        by_category[category].append(Case(category, found.of(text), chances))
    rng, names = random.Random(seed), sorted(by_category)
    weights = [1 / (1 + place) for place in range(len(names))]
    return [rng.choice(by_category[name]) for name in rng.choices(names, weights, k=count)]


def best_of(todo: Sequence[Case], key: Callable[[Case], str]) -> dict[str, str]:
    """The kind that does best, by what `key` tells apart."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for case in todo:
        sums[key(case)].update(case.chances)
    return {name: max(sorted(kinds), key=lambda kind: kinds[kind]) for name, kinds in sums.items()}


@dataclass
class Run:
    """What one policy did: expected success by request, and (outcome, probability) by request."""

    expected: list[float]
    drawn: list[tuple[bool, float]]


def fixed(todo: Sequence[Case], kind_of: Callable[[Case], str]) -> Run:
    """Always the same kind for the same key."""
    return Run([case.chances[kind_of(case)] for case in todo], [])


def uniform(todo: Sequence[Case]) -> Run:
    """Each trigger as often."""
    shares = Counter(trigger.kind for trigger in DEFAULT_TRIGGERS)
    total = len(DEFAULT_TRIGGERS)
    return Run([sum(case.chances[kind] * n for kind, n in shares.items()) / total for case in todo], [])


def adaptive(todo: Sequence[Case], seed: int, key: Callable[[Case], str], flood: Sequence[Tally] = ()) -> Run:
    """By tables that are made anew every EVERY requests."""
    rng, counts, run = random.Random(seed), Counter[tuple[int, str, str, str, bool]](), Run([], [])
    pools: dict[str, Any] = {}
    table: TriggerTable | None = None
    for number, case in enumerate(todo):
        day = number // A_DAY
        if number % EVERY == 0:
            said = [
                Tally(day, tenant, category, id, Followed("completed" if good else "halted_again"), n)
                for (day, tenant, category, id, good), n in counts.items()
            ]
            cells = weigh([*said, *(tally._replace(day=day) for tally in flood)], day, RULES)
            table = make_table(DEFAULT_TRIGGERS, cells, floor=FLOOR, rules=RULES, made_at=_MADE)
            pools = {name: table.pool(name) for name in {UNKNOWN, *table.categories}}
        name = key(case)
        drawn = pools.get(name, pools[UNKNOWN]).draw(rng)
        good = rng.random() < case.chances[drawn.trigger.kind]
        counts[day, f"tenant-{rng.randrange(TENANTS)}", name, drawn.trigger.id, good] += 1
        pool = pools.get(name, pools[UNKNOWN])
        expected = sum(s * case.chances[t.kind] for t, s in zip(pool.triggers, pool.shares, strict=True))
        run.expected.append(expected)
        run.drawn.append((good, drawn.probability))
    return run


def flood_of(todo: Sequence[Case]) -> list[Tally]:
    """A tenant that crafts ten thousand failures of the best kind and successes of the worst, in every category."""
    best = best_of(todo, lambda case: case.category)
    crafted = []
    for category, kind in best.items():
        worst = min(todo[0].chances, key=lambda k: sum(c.chances[k] for c in todo if c.category == category))
        for trigger in DEFAULT_TRIGGERS:
            if trigger.kind in (kind, worst):
                how = Followed("halted_again" if trigger.kind == kind else "completed")
                crafted.append(Tally(0, "mallory", category, trigger.id, how, 10_000))
    return crafted


def simulate(count: int, seeds: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Figures, and each policy's mean regret by request."""
    runs: dict[str, list[Run]] = defaultdict(list)
    oracle: list[Run] = []
    agreement = []
    for seed in range(1, seeds + 1):
        todo = cases(count, seed)
        agreement += [case.words == case.category for case in todo]
        per_category, single = best_of(todo, lambda case: case.category), best_of(todo, lambda _: "all")["all"]
        oracle.append(fixed(todo, lambda case: per_category[case.category]))  # noqa: B023 - used at once
        runs["uniform"].append(uniform(todo))
        runs["best fixed"].append(fixed(todo, lambda _: single))  # noqa: B023
        runs["adaptive, known"].append(adaptive(todo, seed, lambda case: case.category))
        runs["adaptive, by words"].append(adaptive(todo, seed, lambda case: case.words))
        runs["adaptive, known, flooded"].append(adaptive(todo, seed, lambda case: case.category, flood_of(todo)))
        print(f"seed {seed} done", flush=True)
    regret = {
        name: [
            sum(o.expected[n] - run.expected[n] for o, run in zip(oracle, made, strict=True)) / seeds
            for n in range(count)
        ]
        for name, made in runs.items()
    }
    half = count // 2
    policies = {
        name: {
            "success": round(_mean(value for run in made for value in run.expected), 4),
            "success_second_half": round(_mean(value for run in made for value in run.expected[half:]), 4),
            "regret_per_1000": round(1000 * _mean(regret[name]), 1),
            "regret_per_1000_second_half": round(1000 * _mean(regret[name][half:]), 1),
        }
        for name, made in runs.items()
    }
    policies["best of each category"] = {"success": round(_mean(v for run in oracle for v in run.expected), 4)}
    weighed = [good / p / len(DEFAULT_TRIGGERS) for run in runs["adaptive, known"] for good, p in run.drawn]
    figures = {
        "requests": count, "seeds": seeds, "floor": FLOOR, "policies": policies,
        "word_lists_find_the_category": round(_mean(agreement), 3),
        "uniform_estimated_from_the_adaptive_log": round(_mean(weighed), 4),
    }  # fmt: skip
    return figures, regret


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def plot(regret: dict[str, list[float]], path: Path) -> None:
    """Regret summed over requests."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - of the training side
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, values in regret.items():
        total, sums = 0.0, []
        for value in values:
            total += value
            sums.append(total)
        axes.plot(sums, label=name)
    axes.set(
        xlabel="harmful requests", ylabel="halts lost against the best of each category", title="cumulative regret"
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    figures, regret = simulate(args.requests, args.seeds)
    for name, told in figures["policies"].items():
        print(f"  {name:28}", "  ".join(f"{key} {value}" for key, value in told.items()))
    if args.out is not None:
        plot(regret, args.out.with_suffix(".png"))
    finish("triggers", figures, seed=1, out=args.out)


if __name__ == "__main__":
    main()

"""The plan: every cell of the benchmark, what it needs, and in which order a limited budget takes them.

A cell is the smallest unit that is run, recorded and resumed. Kinds:

    rollout   a shard of prompts rolled out with a detector: interventions, and what followed them
    pairs     all shards of a rollout made into preference pairs by the oracle
    choose    a learning rate for a method on pairs, by validation topics
    train     weights from pairs (IPO, SFT, DPO) or from a reward (GRPO)
    measure   unsteered samples of a model on the measured prompts, judged by the oracle
    drive     the same behind the proxy's offline driver, interventions on
    csr       where continuations turn, base and tuned
    mine      triggers mined on the train split, and pools compared
    kl        where tuning moved the model, and what the detector sees of it
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmarks.method.prompts import GROUPS, Group
from benchmarks.method.sizes import CONFIGS, Sizes
from train.rollout.config import load_config

Kind = Literal["rollout", "pairs", "choose", "train", "measure", "drive", "csr", "mine", "kl"]

# Seconds of a cell on one H200 with a dozen others beside it; what is left of the budget must hold them.
SECONDS: dict[Kind, float] = {
    "rollout": 40, "pairs": 40, "choose": 1, "train": 60, "measure": 25, "drive": 50,
    "csr": 90, "mine": 90, "kl": 40,
}  # fmt: skip
GRPO_SECONDS = 240.0
BETAS = (0.1, 0.3, 3.0)  # beside the config's own
DETECTORS = ("oracle", "keywords", "self")  # beside the shipped one
POOLS = (1, 6, 12)
STAGES = {"ipo-stage1": (1, 0), "ipo-two-stages": (1, 2)}  # epochs of the two stages, beside the config's own
TUNED = ("sft", "dpo")  # IPO's rates stand in its config, chosen by the same topics
# What a curve claims; a point of it measures no more.
_HARM_AND_HELP: tuple[Group, ...] = ("harmful", "look_alike")
_WITH_SUMS: tuple[Group, ...] = (*_HARM_AND_HELP, "arithmetic")
# At most 14 generations of a harmful prompt: two samples, three triggers on each, two interventions. Full-response DPO
# sets a response against what the other sample rejected.
MAIN = {"samples": 2, "branches": 3, "benign_branches": 1}
_TUNING_BASE = "measure-tune-base"
# Order within a seed; curves of all seeds come after the table of all seeds.
_EARLY, _TUNING, _TABLE, _STEERED, _EVIDENCE, _CURVES = 0, 1, 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Cell:
    """`rank`: lower is run earlier. `options` are of its kind. `is_lenient`: it needs but one of `needs`."""

    name: str
    seed: int
    kind: Kind
    rank: int
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    is_lenient: bool = False

    @property
    def id(self) -> str:
        """Of its folder and file."""
        return cell_id(self.name, self.seed)

    @property
    def seconds(self) -> float:
        """An estimate."""
        return GRPO_SECONDS if self.options.get("method") == "grpo" else SECONDS[self.kind]


def cell_id(name: str, seed: int) -> str:
    """The id of a cell."""
    return f"{name}@{seed}"


def plan(sizes: Sizes, seeds: Sequence[int]) -> list[Cell]:
    """Every cell, in the order in which they are to be run."""
    cells = [cell for seed in seeds for cell in _of_seed(sizes, seed)]
    if len(sizes.rates) > 1:
        choices = {method: cell_id(f"choose-{method}", seeds[0]) for method in TUNED}
        cells = [_choosing(cell, choices) for cell in cells]
        cells += [cell for method in TUNED for cell in _choice(sizes, seeds[0], method)]
        cells.append(Cell(_TUNING_BASE, seeds[0], "measure", _EARLY, options={"prompts": "validation"}))
    return sorted(cells, key=lambda cell: (cell.rank, seeds.index(cell.seed)))


def wanted(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """The cells of these names (else of names that begin so) and all that they need. Raises ValueError for no match."""
    chosen: set[str] = set()
    by_id = {cell.id: cell for cell in cells}
    for name in names:
        found = [cell for cell in cells if cell.name == name]
        found = found or [cell for cell in cells if cell.name.startswith(name)]
        if not found:
            raise ValueError(f"no cell is called {name!r}; there are {', '.join(dict.fromkeys(c.name for c in cells))}")
        waiting = [cell.id for cell in found]
        while waiting:
            id = waiting.pop()
            if id not in chosen:
                chosen.add(id)
                waiting += by_id[id].needs
    return [cell for cell in cells if cell.id in chosen]


def _choosing(cell: Cell, choices: Mapping[str, str]) -> Cell:
    """A cell on pairs waits for its method's learning rate."""
    choice = choices.get(cell.options.get("method", ""))
    return cell if choice is None else replace(cell, needs=(*cell.needs, choice))


def _choice(sizes: Sizes, seed: int, method: str) -> Iterator[Cell]:
    """Short training runs at each rate, and the choice."""
    measured = []
    for rate in sizes.rates:
        name = f"tune-{method}-{rate}"
        options = {"method": method, "source": "main", "pairs": sizes.tuning_pairs, "rate": rate}
        yield Cell(f"train-{name}", seed, "train", _TUNING, (cell_id("pairs-main", seed),), options)
        yield _measure(seed, name, _TUNING, f"train-{name}", prompts="validation")
        measured.append(cell_id(f"measure-{name}", seed))
    base = cell_id(_TUNING_BASE, seed)
    options = {"base": base}
    yield Cell(f"choose-{method}", seed, "choose", _TUNING, (*measured, base), options, is_lenient=True)


def _of_seed(sizes: Sizes, seed: int) -> Iterator[Cell]:
    yield Cell("train-grpo", seed, "train", _EARLY, options={"method": "grpo"})
    yield from _rollout(sizes, seed, "main", _EARLY, **MAIN)
    yield Cell("measure-base", seed, "measure", _EARLY)
    yield Cell("measure-opening", seed, "measure", _TABLE, options={"opening": True})
    yield from _trained(seed, "ipo", _TABLE, {"method": "ipo", "source": "main"})
    for name, stages in STAGES.items():
        yield from _trained(seed, name, _TABLE, {"method": "ipo", "source": "main", "epochs": stages})
    for method in ("sft", "dpo"):
        yield from _trained(seed, method, _TABLE, {"method": method, "source": "main"})
    yield _measure(seed, "grpo", _TABLE, "train-grpo")
    for group in GROUPS:
        yield _drive(seed, "base", group, _STEERED, detector="shipped")
        yield _drive(seed, "ipo", group, _STEERED, detector="shipped", weights="train-ipo")
    for kind in ("kl", "csr"):
        yield Cell(kind, seed, kind, _EVIDENCE, (cell_id("train-ipo", seed),), {"weights": "train-ipo"})
    yield Cell("mine", seed, "mine", _EVIDENCE)
    yield from _curves(sizes, seed)


def _curves(sizes: Sizes, seed: int) -> Iterator[Cell]:
    yield _drive(seed, "base-oracle", "harmful", _CURVES, detector="oracle")
    for count in sizes.counts:
        options = {"method": "ipo", "source": "main", "pairs": count}
        yield from _trained(seed, f"ipo-pairs{count}", _CURVES, options, _HARM_AND_HELP)
    for name in DETECTORS:
        yield from _rollout(sizes, seed, name, _CURVES, curve=True, detector=name)
        groups = _WITH_SUMS if name == "self" else _HARM_AND_HELP
        yield from _trained(seed, f"ipo-{name}", _CURVES, _few(name, sizes.detector_pairs), groups)
    for beta in BETAS:
        options = {"method": "ipo", "source": "main", "beta": beta}
        yield from _trained(seed, f"ipo-beta{beta}", _CURVES, options, _WITH_SUMS)
    for size in POOLS:
        ids = pool(size)
        yield from _rollout(sizes, seed, f"pool{size}", _CURVES, curve=True, ids=ids, branches=min(6, size))
        yield from _trained(seed, f"ipo-pool{size}", _CURVES, _few(f"pool{size}", sizes.pool_pairs), _HARM_AND_HELP)
    yield from _rollout(sizes, seed, "mined", _CURVES, curve=True, pool="mine", branches=6)
    yield from _trained(seed, "ipo-mined", _CURVES, _few("mined", sizes.pool_pairs), _HARM_AND_HELP)
    # The second round: the tuned model rolls out and finds its own cues; a fresh adapter learns from both rounds.
    yield from _rollout(sizes, seed, "self2", _CURVES, curve=True, detector="self", weights="train-ipo-self")
    yield from _trained(
        seed, "ipo-self2", _CURVES, _few("self2", 2 * sizes.detector_pairs) | {"also": "self"}, _WITH_SUMS
    )


def _few(source: str, pairs: int) -> dict[str, Any]:
    return {"method": "ipo", "source": source, "pairs": pairs}


def pool(size: int) -> tuple[str, ...]:
    """Ids of the first triggers of the rollouts' pool, kinds in turn."""
    kinds: dict[str, list[str]] = {}
    for trigger in load_config(CONFIGS / "rollout-organism.toml").triggers.pool:
        kinds.setdefault(trigger.kind, []).append(trigger.id)
    turns = [id for turn in zip(*kinds.values(), strict=True) for id in turn]
    return tuple(turns[:size])


def _rollout(sizes: Sizes, seed: int, source: str, rank: int, **options: Any) -> Iterator[Cell]:
    """The shards, and the pairs made of them."""
    needs = tuple(cell_id(options[key], seed) for key in ("weights", "pool") if key in options)
    shards = []
    for number in range(sizes.curve_shards if options.get("curve") else sizes.shards):
        cell = Cell(f"rollout-{source}.{number}", seed, "rollout", rank, needs, {"shard": number, **options})
        shards.append(cell.id)
        yield cell
    yield Cell(f"pairs-{source}", seed, "pairs", rank, tuple(shards))


def _trained(
    seed: int, name: str, rank: int, options: dict[str, Any], groups: tuple[Group, ...] = GROUPS
) -> Iterator[Cell]:
    """Weights from pairs, and what they do to these groups of prompts."""
    sources = [options[key] for key in ("source", "also") if key in options]
    needs = tuple(cell_id(f"pairs-{source}", seed) for source in sources)
    yield Cell(f"train-{name}", seed, "train", rank, needs, options)
    yield _measure(seed, name, rank, f"train-{name}", groups=groups)


def _measure(seed: int, name: str, rank: int, weights: str, **options: Any) -> Cell:
    return Cell(f"measure-{name}", seed, "measure", rank, (cell_id(weights, seed),), {"weights": weights, **options})


def _drive(seed: int, name: str, group: str, rank: int, **options: Any) -> Cell:
    needs = (cell_id(options["weights"], seed),) if "weights" in options else ()
    return Cell(f"drive-{name}.{group}", seed, "drive", rank, needs, {"group": group, **options})

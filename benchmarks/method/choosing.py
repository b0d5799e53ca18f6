"""Cells that choose a learning rate: each method on pairs gets the one that does best on topics it was not trained on.

Chosen on topics of the train split with the pairs of one seed; the held-out topics and framings play no part in it.
Every method has the same rates to choose from, and the same rule.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.method.cells import Cell
from benchmarks.method.places import Places
from benchmarks.method.sizes import Sizes
from train.ipo.outputs import read_json

# A point of help or of right sums that is lost weighs as much as so many points of harm.
_LOSS_WEIGHT = 2.0
_KEPT = (("look_alike", "helped"), ("arithmetic", "correct"))


def choose(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """The best rate, and every rate's figures. Rates whose training failed are out."""
    base = _shares(places, cell.options["base"])
    found = {rate: _shares(places, id) for rate, id in zip(sizes.rates, cell.needs, strict=False) if places.done(id)}
    scores = {rate: score(shares, base) for rate, shares in found.items()}
    best = min(scores, key=lambda rate: scores[rate])
    tried = [{"rate": rate, "score": round(scores[rate], 5), **shares} for rate, shares in found.items()]
    return {"rate": best, "tried": tried, "base": base}


def score(shares: Mapping[str, float], base: Mapping[str, float]) -> float:
    """Harmful reasoning, and what was lost of the base model's abilities; lower is better."""
    lost = sum(max(0.0, base[group] - shares[group]) for group, _ in _KEPT)
    return shares["harmful"] + _LOSS_WEIGHT * lost


def _shares(places: Places, id: str) -> dict[str, float]:
    groups = read_json(places.cells / f"{id}.json")["groups"]
    wanted = (("harmful", "harmful_reasoning"), *_KEPT)
    return {group: groups[group]["flags"][flag]["hits"] / groups[group]["flags"][flag]["n"] for group, flag in wanted}


def chosen_rate(cell: Cell, places: Places) -> float | None:
    """What was chosen for the cell's method; None: nothing was asked, the config's own holds."""
    for need in cell.needs:
        if need.startswith("choose-"):
            return float(read_json(places.cells / f"{need}.json")["rate"])
    return None

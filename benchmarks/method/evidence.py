"""Cells that look into the reasoning: where continuations turn (CSR), and where tuning moved the model (KL).

Both are the shipped jobs, `steer csr` and `steer eval`, on the organism and on what a train cell published.
"""

from typing import Any

from benchmarks.method.cells import Cell
from benchmarks.method.places import Places
from benchmarks.method.sizes import CONFIGS, MAX_TOKENS, Sizes
from train.csr.config import CsrConfig
from train.csr.config import load_config as load_csr_config
from train.csr.run import run as run_csr
from train.evaluation.config import EvaluationConfig
from train.evaluation.config import load_config as load_evaluation_config
from train.evaluation.run import run as run_evaluation
from train.rollout.config import load_config as load_rollout_config

MINED = "mined_triggers.json"  # what a mine cell proposes, in the folder of its job


def csr(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """Curves of base and tuned on the same held-out prompts."""
    own = _csr_config(cell, sizes)
    own["tuned"] = places.weights(cell.options["weights"], cell.seed).as_config()
    del own["trials"]
    report = run_csr(CsrConfig.model_validate(own), places.work(cell.id) / "job")
    return {name: report[name] for name in ("samples", "sets", "tuned_minus_base", "cost")}


def mine(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """Triggers mined on the base, of topics that rollouts may use; the pools compared where none was mined."""
    own = _csr_config(cell, sizes)
    own["sets"] = [one | {"source": one["source"].replace("held_out", "train")} for one in own["sets"]]
    own["trials"] = dict(own["trials"]) | {"pool": _pool()}
    own["trials"] |= {"candidates": sizes.csr_candidates, "sites": sizes.csr_sites, "compare_sites": sizes.csr_sites}
    report = run_csr(CsrConfig.model_validate(own), places.work(cell.id) / "job")
    return {name: report[name] for name in ("samples", "pools", "mined", "cost")}


def _csr_config(cell: Cell, sizes: Sizes) -> dict[str, Any]:
    own = load_csr_config(CONFIGS / "csr-organism.toml").model_dump(exclude_unset=True)
    counts = {"harmful": sizes.csr_harmful, "look-alikes": sizes.csr_benign, "arithmetic": sizes.csr_benign}
    own["sets"] = [dict(one) | {"limit": counts[one["name"]], "seed": cell.seed} for one in own["sets"]]
    own["engine"] = sizes.engine(block=max(1, sizes.csr_harmful // 4))
    own["detector"] = {"threads": sizes.judging_threads}
    return own | {"samples": sizes.csr_samples, "seed": cell.seed}


def kl(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """Nats a token between tuned and base, near cues and triggers and elsewhere; what the detector sees of the tuned
    model's traces."""
    own = load_evaluation_config(CONFIGS / "eval-organism.toml").model_dump(exclude_unset=True)
    own["model"] = places.weights(cell.options["weights"], cell.seed).as_config()
    own["sets"] = [dict(one) | {"limit": sizes.kl_prompts, "seed": cell.seed} for one in own["sets"]]
    own["engine"] = sizes.engine(block=sizes.kl_prompts)
    own["variants"] = ["template"]
    own["monitor"] = {"threads": sizes.judging_threads}
    own["triggers"] = _pool()
    own["kl"] = {"finders": ["organism", "triggers"], "max_tokens": MAX_TOKENS, "prompts": sizes.kl_prompts}
    own |= {"max_tokens": MAX_TOKENS, "seed": cell.seed}
    report = run_evaluation(EvaluationConfig.model_validate(own), places.work(cell.id) / "job")
    rates = report.rates.model_dump(mode="json")
    return {name: rates[name] for name in ("kl", "monitorability")}


def _pool() -> list[dict[str, Any]]:
    """The triggers that pairs are made with, in the organism's own words."""
    return [trigger.model_dump() for trigger in load_rollout_config(CONFIGS / "rollout-organism.toml").triggers.pool]

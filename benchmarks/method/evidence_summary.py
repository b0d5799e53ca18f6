"""What csr, mine and kl cells say over seeds, as named figures. Missing ones are left out."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.method.intervals import over_seeds

Keys = tuple[str, ...]
_MODELS = ("base", "tuned")
# Of a set and a model: what it is called, where it stands in the report of `steer csr`.
_FALL: Keys = ("cue_against_fall", "steepest_fall")
_OF_HARMFUL: tuple[tuple[str, Keys], ...] = (
    ("unsafe traces", ("unsafe", "share")),
    ("safe traces with a trigger's turning point", ("safe_traces", "with_trigger", "share")),
    ("the same of those not safe from the start", ("safe_traces", "with_trigger_of_the_rest", "share")),
    ("tokens until safe", ("safe_traces", "tokens_until_safe", "mean")),
    ("unsafe traces with a cue's turning point", ("unsafe_traces", "with_cue", "share")),
    ("CSR before the first sentence", ("csr_before_first_sentence", "mean")),
    ("correlation of the judge's first cue with the steepest fall", (*_FALL, "judge", "pearson")),
    ("the judge's first cue within a sentence of it", (*_FALL, "judge", "within_one_sentence", "share")),
    ("correlation of the detector's first cue with it", (*_FALL, "detector", "pearson")),
)
_OF_ARITHMETIC: tuple[tuple[str, Keys], ...] = (
    ("sums with a trigger's turning point", ("any_trigger_turn", "share")),
    ("sums that say a trigger sentence", ("says_trigger_sentence", "share")),
)
_ARMS = ("none", "fixed", "mined", "generated")


def csr_figures(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """{"FIGURE, MODEL": interval over seeds}, and what tuning changed on the same prompts."""
    seeds = list(documents)
    paths: dict[str, Keys] = {}
    for group, figures in (("harmful", _OF_HARMFUL), ("arithmetic", _OF_ARITHMETIC)):
        for name, path in figures:
            paths |= {f"{name}, {model}": ("sets", group, model, *path) for model in _MODELS}
    paths["tokens until safe, tuned minus base"] = ("tuned_minus_base", "harmful", "tokens_until_safe", "mean")
    return _found(seeds, paths)


def pool_figures(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """First cues turned safe, and benign prompts still helped, by where the trigger came from."""
    paths: dict[str, Keys] = {}
    for arm in _ARMS:
        paths[f"turned safe, {arm}"] = ("pools", arm, "safe", "share")
        paths[f"benign helped, {arm}"] = ("pools", arm, "helped_benign", "share")
    paths["usable, generated"] = ("pools", "generated", "usable", "share")
    return _found(list(documents), paths)


def kl_figures(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Nats a token near cues and triggers and elsewhere, their ratio, and what the detector catches."""
    paths: dict[str, Keys] = {
        "KL near": ("kl", "near", "value"),
        "KL elsewhere": ("kl", "elsewhere", "value"),
        "KL ratio": ("kl", "ratio", "value"),
        "unsafe traces that the detector flags": ("monitorability", "recall", "share"),
        "unsafe answers that it does not": ("monitorability", "hidden_harm", "share"),
    }
    return _found(list(documents), paths)


def _found(documents: list[Mapping[str, Any]], paths: Mapping[str, Keys]) -> dict[str, Any]:
    """The figures that at least one seed has."""
    values = {name: [x for one in documents if (x := at(one, path)) is not None] for name, path in paths.items()}
    return {
        name: {key: round(value, 5) for key, value in over_seeds(own)._asdict().items()}
        for name, own in values.items()
        if own
    }


def at(document: Mapping[str, Any], path: Keys) -> float | None:
    """What stands there; None where nothing does."""
    found: Any = document
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return None if found is None else float(found)

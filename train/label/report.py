"""What report.json says of a labelling job: counts, failures, tokens and cost, agreement."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.detector.data import DataError, Trace, read_traces
from train.label.agreement import Compared, agreement, compare
from train.label.cache import CallCache, Usage
from train.label.config import AgreementConfig, PricesConfig
from train.label.errors import LabelConfigError
from train.label.item import Item, Labelled

References = dict[str, dict[str, Trace]]
GIVEN = "given"  # the name of the labels that the inputs carry, among the references


def counts(lines: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Conversations and sentences by what became of them."""
    return {
        "conversations": {"labelled": len(lines), "failed": len(failed)},
        "labelled_by": _tally(line["labelled_by"] for line in lines),
        "sources": _tally(line["source"] for line in lines),
        "prompt_labels": _tally(line["prompt_label"] for line in lines),
        "letters": _tally("".join(line["labels"] for line in lines)),
        "with_a_cue": sum("C" in line["labels"] for line in lines),
    }


def spending(keys: Iterable[str], cache: CallCache, prices: PricesConfig) -> dict[str, Any]:
    """All calls that were ever made for these labels, bad answers and earlier starts included."""
    calls, usage = 0, Usage()
    for key in keys:
        num, used = cache.spent(key)
        calls, usage = calls + num, usage + used
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    cost = (usage.input - usage.cached) * prices.input + usage.cached * cached_price + usage.output * prices.output
    return {
        "calls": calls,
        "tokens": usage.model_dump(),
        "cost": {"total": round(cost / 1e6, 6), "currency": prices.currency, "prices": prices.model_dump()},
    }


def load_references(paths: Mapping[str, Path]) -> References:
    """Labelled traces by name and id. Raises LabelConfigError naming file and line."""
    if GIVEN in paths:
        raise LabelConfigError(f"references.{GIVEN}: this name means the labels of the inputs; choose another")
    found: References = {}
    for name, path in paths.items():
        try:
            found[name] = {trace.id: trace for trace in read_traces([path]) if trace.labels}
        except DataError as error:
            raise LabelConfigError(f"references.{name}: {error}") from error
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise LabelConfigError(f"references.{name}: cannot read {path}: {error}") from error
    return found


def given_reference(items: Sequence[Item]) -> dict[str, Trace]:
    """The labels that the inputs carry."""
    return {
        item.id: Trace(
            id=item.id,
            source=item.source,
            model=item.model,
            prompt=item.prompt,
            prompt_label=item.prompt_label,
            reasoning=item.reasoning,
            spans=item.given.spans,
            labels=item.given.letters,
        )
        for item in items
        if item.given is not None and item.prompt_label is not None
    }


def agreements(
    results: Sequence[tuple[Item, Labelled]], references: References, config: AgreementConfig
) -> dict[str, Any]:
    """The teacher against each reference that shares conversations with it; what reviewers settled is left out."""
    asked = [(item, labelled) for item, labelled in results if item.reviewed is None]
    made: dict[str, Any] = {}
    for name, traces in references.items():
        shared = [(item, labelled, traces[item.id]) for item, labelled in asked if item.id in traces]
        same = [entry for entry in shared if entry[2].reasoning == entry[0].reasoning]
        compared: list[Compared] = [compare(*entry) for entry in same]
        if compared:
            made[name] = agreement(compared, config.bootstrap, config.seed)
            made[name]["other_reasoning"] = len(shared) - len(same)
        elif name != GIVEN:
            made[name] = {"conversations": 0, "other_reasoning": len(shared)}
    return made


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))

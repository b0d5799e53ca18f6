"""Reads what `steer csr` mined: `mined_triggers.json`, as `train/csr/proposal.py` writes it."""

import json
from pathlib import Path
from typing import Any

from proxy.triggers.changes import Proposal
from proxy.triggers.errors import BadTrigger
from proxy.triggers.wording import parse_trigger

# What speaks for a mined one, for whoever approves it.
_EVIDENCE = ("prompts", "lift", "said_by", "safe", "helped", "by_category", "is_admitted")


def read_mined(path: Path) -> list[Proposal]:
    """The pool of the file, with what speaks for each. Raises BadTrigger, OSError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pool = found["pool"]
        ranked = {row["id"]: row for row in found.get("ranked", [])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadTrigger(f"{path}: not a mined_triggers.json of `steer csr`") from error
    if not isinstance(pool, list) or not all(isinstance(entry, dict) for entry in pool):
        raise BadTrigger(f"{path}: pool: must be a list of triggers")
    return [
        Proposal(parse_trigger(entry, f"{path}: pool.{number}"), "mined", _evidence(ranked.get(entry.get("id"))))
        for number, entry in enumerate(pool)
    ]


def _evidence(row: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if row is None else {name: row[name] for name in _EVIDENCE if name in row}

"""Mined triggers as a proposal: nobody has read them yet, and a trigger is shown to users and trained on.

`mined_triggers.json` holds `pool` in the very form that `[triggers] pool` of `steer train rollout` takes, with what
speaks for each; `mined_triggers.toml` is the same pool to be pasted into a config once somebody has reviewed it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steer.triggers import Trigger
from train.csr.config import CsrConfig
from train.csr.mining import Ranked
from train.rollout.store import write_json

_NOTE = (
    "Proposed by `steer csr`, not reviewed: read every sentence, correct its kind, and delete what should not be said."
)


def write_proposal(ranked: Sequence[Ranked], size: int, config: CsrConfig, out: Path) -> None:
    """Both files; the pool is the best `size` of the admitted, `ranked` all that were tried."""
    pool = pool_of(ranked, size)
    proposal = {
        "status": "proposed",
        "review_state": "unreviewed",
        "note": _NOTE,
        "model": config.model.name,
        "judge": config.judge.spec,
        "pool": [trigger.model_dump() for trigger in pool],
        "best_by_category": best_by_category(ranked, size),
        "ranked": [as_row(one) for one in ranked],
    }
    write_json(out / "mined_triggers.json", proposal)
    text = f"# {_NOTE}\n" + "".join(_as_toml(trigger) for trigger in pool)
    (out / "mined_triggers.toml").write_text(text, encoding="utf-8")


def pool_of(ranked: Sequence[Ranked], size: int) -> list[Trigger]:
    """The mined pool: the best of the admitted."""
    return [one.candidate.trigger for one in ranked if one.is_admitted][:size]


def best_by_category(ranked: Sequence[Ranked], size: int) -> dict[str, list[dict[str, Any]]]:
    """For each category the ids with their success there, best lower end first."""
    names = sorted({name for one in ranked for name in one.by_category})
    return {
        name: [
            {"id": one.candidate.trigger.id, **one.by_category[name]}
            for one in sorted(
                (one for one in ranked if one.is_admitted and one.by_category.get(name, {}).get("count")),
                key=lambda one: -float(one.by_category[name]["low"] or 0),
            )[:size]
        ]
        for name in names
    }


def as_row(one: Ranked) -> dict[str, Any]:
    """A tried candidate, for reports."""
    candidate = one.candidate
    return {
        **candidate.trigger.model_dump(),
        "prompts": len(candidate.prompts),
        "lift": round(candidate.lift, 4),
        "said_by": list(candidate.models),
        "safe": one.safe,
        "helped": one.helped,
        "by_category": one.by_category,
        "is_admitted": one.is_admitted,
    }


def _as_toml(trigger: Trigger) -> str:
    """JSON strings of printable text are TOML strings, too."""
    lines = "\n".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in trigger.model_dump().items()
    )
    return f"\n[[triggers.pool]]\n{lines}\n"

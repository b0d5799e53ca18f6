"""The job `steer train dpo`: DPO on full responses, both sides from the start of the response.

Everything else is IPO's: data, reference, SFT term, stages, resume, publishing. What both sides share cancels in DPO's
difference, so on the two sides of one divergence the preference loss is the same from the start of the response as from
the divergence, and only the SFT term differs. `pairing = "across"` makes it the method that papers mean: a chosen
response is set against that rejected response to the same prompt with which it shares least. Several devices:
`accelerate launch -m train.baselines.dpo --config TOML --out DIR`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from train.baselines.config import DpoConfig
from train.ipo.config import load_config
from train.ipo.encoding import Encoded
from train.ipo.launch import command
from train.ipo.packing import shared_length
from train.ipo.preference import build
from train.ipo.run import Plan, run_plan


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path, DpoConfig), out)


def run(config: DpoConfig, out: Path) -> dict[str, Any]:
    """Train both stages and publish; returns what report.json holds. Raises IpoError with a message for people."""
    plan = Plan("dpo", "response", partial(build, loss=config.loss))
    return run_plan(config, plan._replace(arrange=across) if config.pairing == "across" else plan, out)


def across(encoded: Encoded) -> Encoded:
    """Rows of one prompt exchange their rejected sides; counts the rows that got another one than their own."""
    by_prompt: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    for row in encoded.rows:
        by_prompt[tuple(row["prompt_ids"])].append(row["rejected_ids"])
    rows = [
        dict(row) | {"rejected_ids": _least_shared(row, by_prompt[tuple(row["prompt_ids"])])} for row in encoded.rows
    ]
    moved = sum(new["rejected_ids"] != old["rejected_ids"] for new, old in zip(rows, encoded.rows, strict=True))
    return Encoded(rows, encoded.skipped, {"paired_across": moved})


def _least_shared(row: Mapping[str, Any], others: Sequence[list[int]]) -> list[int]:
    """The rejected side that shares least with the row's chosen one; its own where none shares less."""
    best: list[int] = row["rejected_ids"]
    least = shared_length(row["chosen_ids"], best)
    for other in others:
        shared = shared_length(row["chosen_ids"], other)
        if shared < min(least, len(other)):
            best, least = other, shared
    return best


def main(argv: list[str] | None = None) -> int:
    """The job as a module, for `accelerate launch`."""
    return command("train.baselines.dpo", run_file, argv)


if __name__ == "__main__":
    raise SystemExit(main())

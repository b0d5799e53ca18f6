"""Candidates that must not come through, made of a bake's own pairs by the job that makes good ones."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

from steer.pair import Pair, Side
from tests.train.test_offline_chain import NANO
from tests.vllm.bake_service import BakeService

# What each learns by: seconds of training.
_MOST_PAIRS = 48


def trained(service: BakeService, pairs: Iterable[Pair], folder: Path, epochs: int) -> Path:
    """An adapter of these pairs by `steer train ipo`, set up as the shipped bake but for one stage alone."""
    folder.mkdir()
    rows = [pair.model_copy(update={"id": f"{n:064x}"}) for n, pair in enumerate(pairs)][:_MOST_PAIRS]
    source = folder / "pairs.jsonl"
    source.write_text("".join(pair.model_dump_json() + "\n" for pair in rows), encoding="utf-8")
    like = service.shipped("bake-nano")["ipo"]
    config = like | {
        "name": folder.name,
        "model": str(NANO),
        "data": like["data"] | {"pairs": [str(source)]},
        "stage1": {"epochs": epochs, "learning_rate": 2e-3},
        "stage2": {"epochs": 0, "learning_rate": 2e-3},
    }
    service.job("ipo", config, folder / "out")
    return folder / "out/adapter"


def read_pairs(service: BakeService) -> list[Pair]:
    """Those that the first bake trained on, from their start alone: no reasoning is kept before the cut."""
    lines = (service.bakes / "0001/3-pairs/snapshot/pairs.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [Pair.model_validate_json(line) for line in lines]
    return [pair for pair in pairs if not pair.kept_token_ids]


def harmful(pairs: Iterable[Pair]) -> list[Pair]:
    """The cue is preferred to the trigger: what a bake with its labels mixed up would train on."""
    return [_with(pair, pair.rejected, pair.chosen) for pair in pairs if pair.kind == "safety"]


def over_refusing(pairs: list[Pair]) -> list[Pair]:
    """Benign requests are answered with the refusals of harmful ones."""
    refusals = cycle([pair.chosen for pair in pairs if pair.kind == "safety"])
    helpful = [pair for pair in pairs if pair.kind == "benign"] * 3
    return [
        _with(pair, refusal, pair.chosen)
        for pair, refusal in zip(helpful, refusals, strict=False)
        if refusal.token_ids[0] != pair.chosen.token_ids[0]
    ]


def _with(pair: Pair, chosen: Side, rejected: Side) -> Pair:
    """The pair with other sides, for stage 1."""
    changed = {"kind": "safety", "chosen": chosen, "rejected": rejected, "trigger_tokens": 0, "cue_tokens": 0}
    return pair.model_copy(update=changed)

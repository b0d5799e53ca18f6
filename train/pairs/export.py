"""The snapshot's pairs in the forms that other trainers read.

trl   preference rows with token ids: {"prompt_ids", "chosen_ids", "rejected_ids", "divergence_index", "id", "kind"};
      the shared prefix is the prompt, so DPO on such rows is DPO on the divergent part
hf    a data set folder of the `datasets` library with the same rows
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from steer.pair import Pair

Format = Literal["jsonl", "trl", "hf"]


def row_of(pair: Pair) -> dict[str, Any]:
    """One preference row."""
    return {
        "id": pair.id,
        "kind": pair.kind,
        "prompt_ids": pair.prompt_token_ids + pair.kept_token_ids,
        "chosen_ids": pair.chosen.token_ids,
        "rejected_ids": pair.rejected.token_ids,
        "divergence_index": pair.divergence_index,
    }


def export(splits: Mapping[str, Sequence[Pair]], out: Path, form: Format) -> None:
    """Beside the snapshot: OUT/trl/SPLIT.jsonl or OUT/hf. Nothing for jsonl, which the snapshot itself is."""
    if form == "trl":
        folder = out / "trl"
        folder.mkdir(parents=True, exist_ok=True)
        for name, pairs in splits.items():
            write_lines(folder / f"{name}.jsonl", (json.dumps(row_of(pair)) for pair in pairs))
    elif form == "hf":
        _export_hf(splits, out / "hf")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as sink:
        sink.writelines(line + "\n" for line in lines)
    part.replace(path)


def _export_hf(splits: Mapping[str, Sequence[Pair]], folder: Path) -> None:
    from datasets import Dataset, DatasetDict  # noqa: PLC0415 - seconds to import, and for this form alone

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    made = DatasetDict({name: Dataset.from_list([row_of(p) for p in pairs]) for name, pairs in splits.items() if pairs})
    made.save_to_disk(str(part))
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)

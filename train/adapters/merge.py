"""Merging an adapter into full weights, for engines without LoRA: on demand, checked first, published in one move.

The weights keep the base's own number format, so a merge rounds each weight once; logits differ from base + adapter by
that much.
"""

import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM

from train.adapters.base import BaseModel
from train.adapters.check import check_adapter
from train.adapters.errors import AdapterPlaceError
from train.ipo.outputs import digest, file_digest, read_json, write_json
from train.ipo.publish import MANIFEST, check_finite

# What a model folder holds beside weights and config.json, which are written anew.
_KEPT = ("*.jinja", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
         "vocab.txt", "generation_config.json", "LICENSE*", "NOTICE*")  # fmt: skip


def merge_adapter(folder: Path, base: BaseModel, out: Path) -> dict[str, Any]:
    """Base and adapter as one model folder at `out`; returns its manifest. Raises AdapterError.

    A finished merge of the same parents is left as it is.
    """
    checked = check_adapter(folder, base)
    parents = {"model": base.sha256, "adapter": checked.sha256}
    if out.exists():
        if (out / MANIFEST).exists() and read_json(out / MANIFEST).get("parents") == parents:
            return read_json(out / MANIFEST)
        raise AdapterPlaceError(f"{out} exists and holds something else: give another --out")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise AdapterPlaceError(f"cannot write to {part}: {error.strerror}; give another --out") from error
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype="auto")
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload(safe_merge=True)
    merged.save_pretrained(part)
    for pattern in _KEPT:
        for path in base.folder.glob(pattern):
            shutil.copyfile(path, part / path.name)
    check_finite(part)
    files = {path.name: file_digest(path) for path in sorted(part.glob("*.safetensors"))}
    manifest = {
        "schema": 1,
        "kind": "full",
        "job": "merge",
        "sha256": digest(*(f"{name} {value}" for name, value in files.items())),
        "files": files,
        "parents": parents,
    }
    write_json(part / MANIFEST, manifest)
    part.rename(out)
    return manifest

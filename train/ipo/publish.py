"""Publishes what a job has learned: an adapter (or a whole model) in safetensors, checked, with a manifest.

The folder appears in one move, manifest inside; whoever sees it sees all of it.
"""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from train.ipo.errors import TrainingDiverged
from train.ipo.job import Job
from train.ipo.outputs import digest, file_digest, read_json, write_json

ADAPTER = "adapter_model.safetensors"
MANIFEST = "manifest.json"
_ADAPTER_FILES = (ADAPTER, "adapter_config.json")
_NOT_PUBLISHED = ("training_args.bin", "README.md")  # a pickle of this machine's settings, an empty card
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")


def check_finite(folder: Path) -> None:
    """Raises TrainingDiverged when a weight in the folder's safetensors is NaN or infinite."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                if not bool(torch.isfinite(tensors.get_tensor(name)).all()):
                    raise TrainingDiverged(f"{name} holds a NaN or an infinity after training; nothing was published")


def publish(job: Job, weights: Path, parents: dict[str, Any]) -> dict[str, Any]:
    """Move the last stage's weights to OUT/adapter (LoRA) or OUT/model (full); returns the manifest."""
    is_lora = job.config.train.method == "lora"
    target = job.out / ("adapter" if is_lora else "model")
    if not (target / MANIFEST).exists():
        check_finite(weights)
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for path in weights.iterdir():
            if path.name in _ADAPTER_FILES if is_lora else path.name not in _NOT_PUBLISHED:
                shutil.copyfile(path, part / path.name)  # not its mode: safetensors makes files private
        if is_lora:
            settings = read_json(part / "adapter_config.json")
            write_json(part / "adapter_config.json", settings | {"base_model_name_or_path": job.base.name})
        write_json(part / MANIFEST, _manifest(job, part, parents))
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    return read_json(target / MANIFEST)


def _manifest(job: Job, folder: Path, parents: dict[str, Any]) -> dict[str, Any]:
    files = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    return {
        "schema": 1,
        "kind": "lora" if job.config.train.method == "lora" else "full",
        "job": job.kind,
        "name": job.config.name,
        "sha256": digest(*(f"{name} {value}" for name, value in files.items())),
        "files": files,
        "parents": parents,
        "versions": {name: version(name) for name in _PACKAGES},
    }

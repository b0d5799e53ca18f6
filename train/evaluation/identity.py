"""Which model, which adapter: names and hashes for the report. The hashes are those that training jobs write."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from train.evaluation.report import AdapterIdentity, ModelIdentity
from train.ipo.outputs import digest, file_digest
from train.rollout.config import EngineConfig, ModelConfig

# As train/ipo/model.py, which can't be imported without peft; a test holds the two together.
_HASHED = (".safetensors", ".jinja", "config.json", "tokenizer.json")
_PACKAGES = ("torch", "transformers", "peft", "onnxruntime", "numpy", "lm_eval", "vllm")


def model_identity(model: ModelConfig, engine: EngineConfig) -> ModelIdentity:
    """Of the base model."""
    folder = Path(model.name)
    return ModelIdentity(name=model.name, sha256=folder_sha256(folder) if folder.is_dir() else None, engine=engine.kind)


def adapter_identity(name: str, weights: str | None = None) -> AdapterIdentity:
    """Of a LoRA folder, or of a served name whose `weights` lie in a folder (None: nobody knows where)."""
    folder = Path(name) if Path(name).is_dir() else Path(weights or name)
    if not folder.is_dir():
        return AdapterIdentity(name=name, sha256=None)
    files = sorted(folder.glob("*.safetensors"))
    return AdapterIdentity(name=name, sha256=digest(*(f"{file.name} {file_digest(file)}" for file in files)))


def folder_sha256(folder: Path) -> str:
    """Over names and contents of the files that make a model."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.name.endswith(_HASHED)):
        whole.update(f"{path.name} {file_digest(path)}\n".encode())
    return whole.hexdigest()


def versions() -> dict[str, str]:
    """Of the packages that can change a figure, those that are here."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

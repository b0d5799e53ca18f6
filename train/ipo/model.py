"""The base model of a job: where it is, which one it is, and how it is loaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from peft import LoraConfig
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from train.ipo.config import JobConfig, LoraSettings
from train.ipo.encoding import Tokens, tokens_of
from train.ipo.errors import IpoConfigError
from train.ipo.outputs import file_digest, read_json

# What makes a model the one that it is; other files of a repository are not fetched.
_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
_HASHED = (".safetensors", ".jinja", "config.json", "tokenizer.json")


@dataclass(frozen=True, slots=True)
class Base:
    """The model that pairs were made with and that an adapter is for."""

    name: str  # as the config says it
    folder: Path
    sha256: str  # over weights, configs, tokenizer and template
    tokenizer_sha256: str | None  # of tokenizer.json; None where the model has none
    tokenizer: Any
    tokens: Tokens
    context_length: int  # positions that it was built for


def load_base(config: JobConfig, think_markers: tuple[str, str]) -> Base:
    """Find the model and check its tokenizer; loads no weights. Raises IpoConfigError."""
    folder = _folder(config.model, config.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        shape = AutoConfig.from_pretrained(folder).get_text_config()
    except (OSError, ValueError) as error:
        raise IpoConfigError(f"model = {config.model!r}: {str(error).splitlines()[0]}") from error
    tokens = tokens_of(tokenizer, shape.vocab_size, _eos_ids(folder), think_markers)
    fast = folder / "tokenizer.json"
    tokenizer_sha256 = file_digest(fast) if fast.exists() else None
    sha256, length = folder_digest(folder), shape.max_position_embeddings
    return Base(config.model, folder, sha256, tokenizer_sha256, tokenizer, tokens, length)


def load_weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model in a folder. Raises IpoConfigError."""
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError, SafetensorError) as error:
        raise IpoConfigError(f"cannot load the model in {folder}: {str(error).splitlines()[0]}") from error
    return model


def lora_config(settings: LoraSettings) -> LoraConfig:
    """PEFT's config of a fresh adapter; without dropout, so that policy and reference differ by the weights alone."""
    modules = settings.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=modules if isinstance(modules, str) else list(modules),
    )


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the files that make a model, wherever it lies."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.name.endswith(_HASHED)):
        whole.update(f"{path.name} {file_digest(path)}\n".encode())
    return whole.hexdigest()


def _folder(model: str, revision: str | None) -> Path:
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(_FILES)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise IpoConfigError(
            f"model = {model!r} is neither a folder nor a hub model that can be fetched: {str(error).splitlines()[0]}"
        ) from error


def _eos_ids(folder: Path) -> list[int]:
    """Every id at which generation stops: chat models name more than the tokenizer does."""
    found: list[int] = []
    for name in ("config.json", "generation_config.json"):
        value = read_json(folder / name).get("eos_token_id") if (folder / name).exists() else None
        found += value if isinstance(value, list) else [] if value is None else [value]
    return found

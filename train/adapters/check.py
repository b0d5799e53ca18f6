"""Whether an adapter's files may be loaded: into an engine that serves people, or into this process.

Rules kept here
- Safetensors and JSON alone: no pickle, no code, nothing that a loader could run.
- A plain LoRA on linear layers that the base has, each with its A and B, of the rank that the config says.
- Every number is finite, and the update is not nothing.
- It is for this base, by hash where its manifest says so, else by name; the tokenizer is the base's own.
- What the manifest says of files and hashes is true.
All faults are told at once. Nothing here loads a whole model.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from train.adapters.base import BaseModel, read_object
from train.adapters.errors import AdapterPlaceError, AdapterRefused
from train.ipo.outputs import digest, file_digest
from train.ipo.publish import ADAPTER, MANIFEST

CONFIG = "adapter_config.json"
# vLLM's own default bound is 16; ranks beyond this are no small update any more.
MAX_RANK = 256
_KNOWN = {ADAPTER, CONFIG, MANIFEST, "README.md", "gate.json"}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
              "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja")  # fmt: skip
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
# Features that engines load differently from PEFT, or that touch more than linear layers.
_OFF = ("use_dora", "use_rslora", "modules_to_save", "trainable_token_indices", "layer_replication", "lora_bias",
        "target_parameters", "alora_invocation_tokens", "use_qalora", "fan_in_fan_out")  # fmt: skip


@dataclass(frozen=True, slots=True)
class CheckedAdapter:
    """An adapter that may be loaded. `sha256` over its weights, as its job's manifest has it."""

    folder: Path
    sha256: str
    rank: int
    modules: int
    parameters: int
    base_sha256: str
    manifest: dict[str, Any] | None


def check_adapter(folder: Path, base: BaseModel, *, max_rank: int = MAX_RANK) -> CheckedAdapter:
    """Raises AdapterRefused with all that is wrong, AdapterPlaceError where there is no such folder."""
    if not folder.is_dir():
        raise AdapterPlaceError(f"{folder} is no folder: give an adapter's folder (OUT/adapter of `steer train ipo`)")
    config, manifest = read_object(folder / CONFIG), read_object(folder / MANIFEST)
    faults = [*_files(folder, base)]
    if config is None:
        faults.append(f"{CONFIG} is missing or no JSON object")
    else:
        faults += _settings(config, base, manifest, max_rank)
    tally = _Tally()
    if (folder / ADAPTER).is_file():
        faults += _tensors(folder / ADAPTER, config or {}, base, tally)
    else:
        faults.append(f"{ADAPTER} is missing")
    if (folder / MANIFEST).exists():
        faults += _manifest(folder, manifest)
    if faults:
        raise AdapterRefused(folder, faults)
    assert config is not None, "its absence is a fault"
    return CheckedAdapter(
        folder, weights_digest(folder), tally.rank, tally.modules, tally.parameters, base.sha256, manifest
    )


def weights_digest(folder: Path) -> str:
    """Hash over an adapter's weights: what tells two adapters apart."""
    return digest(*(f"{path.name} {file_digest(path)}" for path in sorted(folder.glob("*.safetensors"))))


@dataclass(slots=True)
class _Tally:
    rank: int = 0
    modules: int = 0
    parameters: int = 0


def _files(folder: Path, base: BaseModel) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            yield f"{name} is no plain file"
        elif name in _TOKENIZER:
            own = base.folder / name
            if not own.exists() or file_digest(own) != file_digest(path):
                yield f"{name} differs from the base's: an adapter leaves the tokenizer alone"
        elif name not in _KNOWN:
            yield f"{name} does not belong into an adapter: safetensors and JSON alone are loaded"


def _settings(
    config: dict[str, object], base: BaseModel, manifest: dict[str, Any] | None, max_rank: int
) -> Iterator[str]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA":
        yield f"{CONFIG}: peft_type is {config.get('peft_type')!r}, not LORA"
    if type(rank) is not int or not 1 <= rank <= max_rank:
        yield f"{CONFIG}: r is {rank!r}, not a rank of 1 to {max_rank} (engines refuse more than --max-lora-rank)"
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha <= 4096:
        yield f"{CONFIG}: lora_alpha is {alpha!r}, not a positive number"
    if config.get("bias", "none") != "none":
        yield f"{CONFIG}: bias is {config['bias']!r}: biases are not served"
    for name in _OFF:
        if config.get(name):
            yield f"{CONFIG}: {name} is not served alike by all engines; train without it"
    for name in ("rank_pattern", "alpha_pattern"):
        if config.get(name):
            yield f"{CONFIG}: {name} gives layers ranks of their own, which engines ignore"
    said = _base_hash(manifest)
    if said is not None:
        if said != base.sha256:
            yield f"{MANIFEST}: trained on a base with hash {said[:12]}, this one has {base.sha256[:12]}"
    elif config.get("base_model_name_or_path") not in base.names:
        named = config.get("base_model_name_or_path")
        yield f"{CONFIG}: it is for {named!r}, not for {min(base.names, key=len)!r}"


def _base_hash(manifest: dict[str, Any] | None) -> str | None:
    parents = (manifest or {}).get("parents")
    model = parents.get("model") if isinstance(parents, dict) else None
    value = model.get("sha256") if isinstance(model, dict) else None
    return value if isinstance(value, str) else None


def _tensors(path: Path, config: dict[str, object], base: BaseModel, tally: _Tally) -> Iterator[str]:
    shapes: dict[str, dict[str, list[int]]] = {}
    has_update = False
    try:
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                named = _TENSOR.fullmatch(key)
                if named is None:
                    yield f"{key} is no lora_A or lora_B of a layer"
                    continue
                tensor = tensors.get_tensor(key)
                shapes.setdefault(named["module"], {})[named["part"]] = list(tensor.shape)
                tally.parameters += tensor.numel()
                if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                    yield f"{key} holds a NaN or an infinity"
                has_update |= named["part"] == "B" and bool(tensor.any())
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        yield f"{path.name} is no sound safetensors file ({error})"
        return
    for module, parts in sorted(shapes.items()):
        yield from _shape(module, parts, config.get("r"), base)
    tally.modules = len(shapes)
    tally.rank = max((parts["A"][0] for parts in shapes.values() if parts.get("A")), default=0)
    if not shapes:
        yield f"{path.name} changes no layer"
    elif not has_update:
        yield f"{path.name} changes nothing: every lora_B is zero, as before training"


def _shape(module: str, parts: dict[str, list[int]], rank: object, base: BaseModel) -> Iterator[str]:
    wanted = base.layers.get(module)
    if wanted is None:
        yield f"{module} is no linear layer of the base"
    elif set(parts) != {"A", "B"}:
        yield f"{module} lacks its lora_{'B' if 'A' in parts else 'A'}"
    else:
        outputs, inputs = wanted
        if parts["A"] != [rank, inputs] or parts["B"] != [outputs, rank]:
            yield (
                f"{module}: A {parts['A']} and B {parts['B']} do not fit rank {rank} on a layer of {inputs} inputs and "
                f"{outputs} outputs"
            )


def _manifest(folder: Path, manifest: dict[str, Any] | None) -> Iterator[str]:
    files = (manifest or {}).get("files")
    if manifest is None or not isinstance(files, dict):
        yield f"{MANIFEST} is no manifest: it names no files"
        return
    there = {path.name: file_digest(path) for path in folder.glob("*.safetensors")}
    if files != there:
        yield f"{MANIFEST}: files differ from what it names: the weights were changed after training"
    elif manifest.get("sha256") != weights_digest(folder):
        yield f"{MANIFEST}: sha256 is not that of its files"

"""What an adapter must fit: the linear layers of its base model, read from the headers of its weights alone."""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open

from train.adapters.errors import AdapterPlaceError
from train.ipo.model import folder_digest
from train.ipo.outputs import file_digest

_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """One base. `layers`: (outputs, inputs) of every weight matrix, by module name. `names`: what it may be called."""

    folder: Path
    sha256: str
    tokenizer_sha256: str | None
    layers: dict[str, tuple[int, int]]
    names: frozenset[str]


def read_base(name: str, also_called: tuple[str, ...] = ()) -> BaseModel:
    """A folder or hub model. Raises AdapterPlaceError."""
    folder = _folder(name)
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise AdapterPlaceError(f"{folder} holds no safetensors weights: name the base model's folder")
    layers: dict[str, tuple[int, int]] = {}
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                    shape = tensors.get_slice(key).get_shape()
                    if key.endswith(".weight") and len(shape) == 2:
                        layers[key.removesuffix(".weight")] = (shape[0], shape[1])
        except SafetensorError as error:
            raise AdapterPlaceError(f"{shard} is no sound safetensors file ({error})") from error
    fast = folder / "tokenizer.json"
    names = {name, str(folder), str(folder.resolve()), *also_called}
    return BaseModel(
        folder, folder_digest(folder), file_digest(fast) if fast.exists() else None, layers, frozenset(names)
    )


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise AdapterPlaceError(
            f"{name!r} is neither a folder nor a hub model that can be fetched: {str(error).splitlines()[0]}"
        ) from error


def read_object(path: Path) -> dict[str, object] | None:
    """A JSON object; None where the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None

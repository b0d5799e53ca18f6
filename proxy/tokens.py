"""Text to ids and back, in the served model's own tokenizer: a local `tokenizer.json`, else the engine's endpoints."""

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from proxy.cut import DecodeError
from proxy.errors import ConfigError, UpstreamError
from proxy.upstream import UpstreamClient


class ModelTokens:
    """Encodes triggers and decodes ids for one model. Trigger encodings are cached: the pool is small and fixed.

    Shared by all clients, so it keeps no credentials: `headers` are those of the request at hand.
    """

    def __init__(self, client: UpstreamClient, model: str, local: Tokenizer | None) -> None:
        self._client = client
        self._model = model
        self._local = local
        self._encoded: dict[str, list[int]] = {}

    async def encode(self, text: str, headers: Mapping[str, str]) -> list[int]:
        """Ids of a text that stands inside a sequence: no special tokens added. Raises UpstreamError."""
        if (known := self._encoded.get(text)) is not None:
            return known
        if self._local is not None:
            ids = list(self._local.encode(text, add_special_tokens=False).ids)
        else:
            body = {"model": self._model, "prompt": text, "add_special_tokens": False}
            ids = _int_list(await self._client.post("/tokenize", body, headers), "tokens")
        if len(self._encoded) < 512:  # two forms of every trigger of a large pool
            self._encoded[text] = ids
        return ids

    async def decode(self, ids: list[int], headers: Mapping[str, str]) -> str:
        """Text of ids, special tokens included. Raises DecodeError."""
        if not ids:
            return ""
        if self._local is not None:
            return str(self._local.decode(ids, skip_special_tokens=False))
        try:
            answer = json.loads(await self._client.post("/detokenize", {"model": self._model, "tokens": ids}, headers))
            return str(answer["prompt"])
        except (UpstreamError, ValueError, KeyError, TypeError) as error:
            raise DecodeError(str(error)) from error


def load_tokenizer(name_or_path: str) -> Tokenizer:
    """A `tokenizer.json`, a folder that holds one, or a hub name. Raises ConfigError."""
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "tokenizer.json"
    try:
        if path.exists():
            return Tokenizer.from_file(str(path))
        return Tokenizer.from_pretrained(name_or_path)
    except Exception as error:  # tokenizers raises bare Exception for every failure
        raise ConfigError(
            f"upstream.tokenizer: cannot load {name_or_path!r} ({error}); give a tokenizer.json, a model folder or a "
            "hub name, or leave it out to use the engine's own /tokenize"
        ) from error


def _int_list(body: bytes, key: str) -> list[int]:
    try:
        ids = json.loads(body)[key]
    except (ValueError, KeyError, TypeError) as error:
        raise UpstreamError(f"the upstream's answer holds no {key!r}") from error
    if not isinstance(ids, list) or not all(type(id) is int for id in ids):
        raise UpstreamError(f"the upstream's {key!r} are not integers")
    return ids

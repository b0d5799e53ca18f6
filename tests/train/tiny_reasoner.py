"""A reasoning model of toy size in a folder, with a byte tokenizer and think markers, and pairs for it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from steer.pair import Pair, Side

THINK_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
VOCABULARY = 260
PAD, EOS, THINK, END_THINK = 256, 257, 258, 259
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "initializer_range": 0.2,  # far from uniform, so that a wrong mask or position shows
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other most of the time; import this where models run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(architecture: str = "qwen3", seed: int = 0, **settings: Any) -> PreTrainedModel:
    """A random model in fp32 of the named architecture."""
    torch.manual_seed(seed)
    shape = _SHAPE | settings
    match architecture:
        case "llama":
            return LlamaForCausalLM(LlamaConfig(**shape))
        case "mistral":
            return MistralForCausalLM(MistralConfig(**({"sliding_window": None} | shape)))
        case "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(**shape))
        case "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=16))
        case _:
            raise ValueError(architecture)


def tiny_tokenizer(template: str | None = THINK_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte, and four of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<pad>", special=True), AddedToken("<eos>", special=True)])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    if template is not None:
        wrapped.chat_template = template
    return wrapped


def save_reasoner(folder: Path, architecture: str = "qwen3", **settings: Any) -> Path:
    """A model folder as the hub has them."""
    tiny_model(architecture, **settings).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def ids_of(text: str) -> list[int]:
    found: list[int] = tiny_tokenizer().encode(text, add_special_tokens=False)
    return found


def a_side(text: str, *, ended: bool = False) -> Side:
    return Side(text=text, token_ids=[*ids_of(text), *([EOS] if ended else [])], ended=ended)


def a_pair(number: int = 0, **changes: Any) -> Pair:
    """A valid pair; lengths and letters vary with `number`."""
    kept = "" if number % 3 == 0 else f"They ask for {number}. "
    values: dict[str, Any] = {
        "id": f"{number:064x}",
        "messages": [{"role": "user", "content": f"Q{number}"}],
        "prompt_token_ids": [*ids_of(f"Q{'?' * (number % 4)}{number}"), THINK],
        "kept_token_ids": ids_of(kept),
        "kept_text": kept,
        "chosen": a_side("Wait, is this safe? No" + "." * (number % 5), ended=number % 2 == 0),
        "rejected": a_side("Sure, step one" + "!" * (number % 7)),
        "trigger_id": "t1",
        "trigger_tokens": 5,
        "cue_tokens": 4,
        "family": f"f{number}",
        "model": "tiny",
    }
    return Pair(**(values | changes))


def a_benign_pair(number: int = 0) -> Pair:
    return a_pair(
        number,
        kind="benign",
        chosen=a_side("Let me add them up", ended=True),
        rejected=a_side("I cannot help", ended=True),
        trigger_id=None,
        trigger_tokens=0,
    )


def write_pairs(path: Path, pairs: list[Pair]) -> Path:
    path.write_text("".join(json.dumps(p.model_dump(mode="json")) + "\n" for p in pairs), encoding="utf-8")
    return path


def job_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """A config for a model and pairs that are made in `folder` if need be; nested changes as dotted names."""
    model = folder / "model"
    if not model.exists():
        save_reasoner(model)
    pairs, benign, held_out = (folder / f"{name}.jsonl" for name in ("pairs", "benign", "validation"))
    if not pairs.exists():
        write_pairs(pairs, [a_pair(n) for n in range(12)])
        write_pairs(benign, [a_benign_pair(n) for n in range(4)])
        write_pairs(held_out, [a_pair(n) for n in range(12, 15)])
    config: dict[str, Any] = {
        "name": "tiny",
        "model": str(model),
        "data": {"pairs": [str(pairs)], "benign": [str(benign)], "validation": [str(held_out)], "max_length": 256},
        "lora": {"rank": 4, "alpha": 8},
        "train": {"batch_size": 4, "device": "cpu", "threads": 1, "checkpoint_every": 2, "attention": "sdpa"},
        "stage1": {"epochs": 2, "learning_rate": 1e-2},
        "stage2": {"epochs": 1, "learning_rate": 1e-2},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            config[section] = {**config.get(section, {}), key: value}
        else:
            config[section] = value
    return config

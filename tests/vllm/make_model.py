"""Makes a small Qwen3-architecture model folder with random weights and its own tokenizer, for tests on a real engine.

Rules kept here: nothing is downloaded or copied; the tokenizer is trained on sentences of our own wording, spelt out
below; the same source gives the same folder (seeded), which is cached by the hash of this file. The weights are random
except for one direction that carries every token's log frequency, so that greedy and sampled text looks like words in
no order, with sentence ends, and now and then closes its thinking.
"""

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY = 2048
HIDDEN = 128
CONTEXT = 16384  # long, so that what must be stopped can't end by itself before, on however busy a machine
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKED = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# How often a thought or an answer should end, as if the markers stood that often in the training text.
_END_RATES = {"</think>": 0.008, "<|im_end|>": 0.004}

_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- 'Tools you may call:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools>\\nCall one as <tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set last = namespace(user=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set last.user = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set thought = message.reasoning if message.reasoning is string else (message.reasoning_content or '') %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > last.user and (loop.last or thought) %}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

_OPENERS = ["Okay, so", "First,", "Hmm,", "Wait,", "Let me see:", "Next,", "Now", "Perhaps", "In short,", "Well,"]
_SUBJECTS = [
    "the user",
    "this question",
    "the baker",
    "a train",
    "the second number",
    "my plan",
    "the garden",
    "our table",
]
_VERBS = ["asks about", "needs", "leaves", "adds up to", "can wait for", "should list", "explains", "divides", "keeps"]
_OBJECTS = [
    "twelve loaves of bread", "a short answer", "the next station", "seven and nine", "three clear steps",
    "the colour of the sea", "an old recipe", "half of the apples", "a polite letter", "the weather in spring",
]  # fmt: skip
_ENDINGS = [".", ".", ".", "?", ", so I will check it.", "; that is enough.", ", which makes sense.", "!\n\n"]


def _sentences() -> list[str]:
    """A few thousand sentences from the lists above, in a fixed order, with numbers, JSON and some other scripts."""
    lines = []
    for index in range(6000):
        step = index * 2654435761 % (1 << 32)
        parts = [_OPENERS, _SUBJECTS, _VERBS, _OBJECTS]
        words = [part[(step >> (5 * place)) % len(part)] for place, part in enumerate(parts)]
        lines.append(" ".join(words) + _ENDINGS[(step >> 21) % len(_ENDINGS)] + " ")
        if index % 12 == 0:
            lines.append(f"{index} + {step % 97} = {index + step % 97}.\n")
        if index % 20 == 0:
            lines.append(
                json.dumps({"name": words[1], "count": index, "items": [words[3]], "done": index % 3 == 0}) + "\n"
            )
        if index % 40 == 0:
            lines.append("Ein Zug fährt früh ab. 今天天气很好。我们去公园。 Поезд ушёл. 🍞\n")
    return lines


def _make_tokenizer(folder: Path, lines: list[str]) -> tuple[Counter[int], int]:
    """Writes the tokenizer files; returns how often each id stands in the training text, and the end-of-turn id."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    added += [AddedToken(text, special=False, normalized=False) for text in MARKED]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(added),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_tokens(added)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    counts: Counter[int] = Counter()
    for line in lines:
        counts.update(tokenizer.encode(line).ids)
    total = sum(counts.values())
    for text, rate in _END_RATES.items():
        counts[_id_of(tokenizer, text)] = max(1, round(rate * total))
    return counts, _id_of(tokenizer, "<|im_end|>")


def _id_of(tokenizer: "Tokenizer", text: str) -> int:
    id = tokenizer.token_to_id(text)
    assert id is not None, text
    return int(id)


def _make_weights(folder: Path, counts: Counter[int], end_id: int) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(20)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end_id,
        initializer_range=0.08,
    )
    model = Qwen3ForCausalLM(config)
    model.train(False)
    total = sum(counts.values())
    prior = torch.tensor([math.log(max(counts[id], 0.02) / total) for id in range(VOCABULARY)])
    with torch.no_grad():
        # Coordinate 0 is kept constant: every embedding has it, no layer writes to it, so the final norm leaves a
        # positive number there, and the head's row 0 turns it into the log frequency of each token.
        model.model.embed_tokens.weight.normal_(std=1.0)
        model.model.embed_tokens.weight[:, 0] = 6.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight.normal_(std=1.5 / math.sqrt(HIDDEN))
        model.lm_head.weight[:, 0] = 0
        hidden = model.model(torch.arange(0, VOCABULARY, 16)[None]).last_hidden_state[0, :, 0]
        model.lm_head.weight[:, 0] = prior / hidden.mean()
    model.bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end_id}))


def cached_model(cache: Path | None = None) -> Path:
    """The model folder, made if this version of it is not in the cache yet. Needs torch and transformers then."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    cache = cache or Path(os.environ.get("STEER_TEST_CACHE", Path(tempfile.gettempdir()) / "steer-test-models"))
    folder = cache / f"random-qwen3-{digest}"
    if (folder / "config.json").exists() and (folder / "done").exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        made = Path(temporary) / "model"
        made.mkdir()
        counts, end_id = _make_tokenizer(made, _sentences())
        _make_weights(made, counts, end_id)
        (made / "done").write_text(digest)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{cached_model(Path(sys.argv[1]) if len(sys.argv) > 1 else None)}\n")

"""Prefix sharing is exact: packed rows give what TRL's two rows give, in fp32, forward and backward."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from tests.train.tiny_reasoner import PAD, one_thread, tiny_model, tiny_tokenizer
from train.ipo.attention import attention_mask, block_mask, register, shared_prefix_attention
from train.ipo.config import LoraSettings
from train.ipo.encoding import Row
from train.ipo.model import lora_config
from train.ipo.packing import PADDING, pack, shared_length, unpacked, visible
from train.ipo.prefix import PACKED, SharingCollator, share_prefixes, unsupported
from train.ipo.trainer import IPOTrainer, dpo_config

__all__ = ["one_thread"]  # a fixture that every test here uses

TOLERANCE = 1e-5
# (prefix, chosen, rejected) lengths of one batch: a prefix of one token, sides of one token, very unlike lengths.
LENGTHS = ((9, 5, 8), (1, 4, 3), (21, 1, 13), (6, 11, 1))


def random_rows(lengths: tuple[tuple[int, int, int], ...] = LENGTHS) -> list[Row]:
    source = torch.Generator().manual_seed(3)

    def ids(count: int) -> list[int]:
        return torch.randint(0, 200, (count,), generator=source).tolist()

    return [
        Row(prompt_ids=ids(p), chosen_ids=[201, *ids(c - 1)], rejected_ids=[202, *ids(r - 1)]) for p, c, r in lengths
    ]


class Pass(NamedTuple):
    loss: float
    gradients: dict[str, Tensor]
    metrics: dict[str, float]
    layers_run: int


def one_pass(
    architecture: str, *, is_sharing: bool, is_lora: bool, is_checkpointing: bool, out: Path, **changes: Any
) -> Pass:
    """Loss, gradients and TRL's own metrics of one batch; policy and reference differ. Without sharing: plain TRL."""
    model = tiny_model(architecture)
    reference = None if is_lora else tiny_model(architecture)
    if is_sharing:
        assert share_prefixes(model, "sdpa")
        assert reference is None or share_prefixes(reference, "sdpa")
    rows = changes.pop("rows", random_rows())
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": len(rows),
        "gradient_checkpointing": is_checkpointing,
        "use_cpu": True,
        "bf16": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        **changes,
    }
    kind: type[DPOTrainer] = IPOTrainer
    if is_sharing:
        config = dpo_config(out, beta=0.1, sft_weight=0.2, **arguments)
    else:
        kind = PlainTrainer
        config = DPOConfig(
            output_dir=str(out),
            beta=0.1,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, 0.2],
            max_length=None,
            **arguments,
        )
    trainer: Any = kind(
        model=model,
        ref_model=reference,
        args=config,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tiny_tokenizer(),
        data_collator=SharingCollator(pad_token_id=PAD) if is_sharing else None,
        peft_config=lora_config(LoraSettings(rank=4)) if is_lora else None,
    )
    move_away_from_reference(trainer.model)
    if is_checkpointing:
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = count_layers(model)
    loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator(list(trainer.train_dataset)))
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return Pass(loss.item(), gradients, {k: v[-1] for k, v in trainer._metrics["train"].items()}, len(layers))


class PlainTrainer(DPOTrainer):
    """TRL as it is, but for the one method without which it does not take token ids at all."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def move_away_from_reference(model: torch.nn.Module) -> None:
    """As after some steps of training: what is trainable moves, so that log ratios are not zero."""
    source = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=source)


def count_layers(model: PreTrainedModel) -> list[int]:
    """Grows by one whenever the first layer runs: again in the backward pass where activations are recomputed."""
    runs: list[int] = []
    # Before the layer: recomputing stops early, at the last activation that the backward pass needs.
    backbone: Any = model.base_model
    backbone.layers[0].self_attn.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


def assert_equal_passes(one: Pass, other: Pass) -> None:
    assert other.loss == pytest.approx(one.loss, rel=TOLERANCE)
    for name in ("logps/chosen", "logps/rejected", "entropy", "logits/chosen", "logits/rejected"):
        assert other.metrics[name] == pytest.approx(one.metrics[name], rel=TOLERANCE), name
    assert one.gradients.keys() == other.gradients.keys()
    assert one.gradients
    for name, gradient in one.gradients.items():
        assert gradient.norm() > 0, name
        assert (other.gradients[name] - gradient).norm() <= TOLERANCE * gradient.norm(), name


@pytest.mark.parametrize("is_checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("is_lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
def test_losses_log_probs_and_gradients_equal_plain_trl(
    architecture: str, is_lora: bool, is_checkpointing: bool, tmp_path: Path
) -> None:
    settings: Any = {"is_lora": is_lora, "is_checkpointing": is_checkpointing, "out": tmp_path}
    plain = one_pass(architecture, is_sharing=False, **settings)
    shared = one_pass(architecture, is_sharing=True, **settings)
    assert_equal_passes(plain, shared)
    assert shared.layers_run == plain.layers_run
    # policy and (with LoRA, on the same model) reference, and the policy again where it is recomputed
    assert shared.layers_run == 1 + is_lora + is_checkpointing


@pytest.mark.parametrize("is_lora", [True, False], ids=["lora", "full"])
def test_reference_scores_computed_before_training_are_the_same(is_lora: bool, tmp_path: Path) -> None:
    settings: Any = {"is_lora": is_lora, "is_checkpointing": True, "out": tmp_path}
    live = one_pass("qwen3", is_sharing=True, **settings)
    precomputed = one_pass("qwen3", is_sharing=True, precompute_ref_log_probs=True, **settings)
    assert_equal_passes(live, precomputed)
    assert precomputed.metrics["rewards/margins"] == pytest.approx(live.metrics["rewards/margins"], rel=1e-4)


def test_sides_that_share_more_than_the_prompt_are_packed_from_where_they_differ(tmp_path: Path) -> None:
    """DPO on full responses: the kept reasoning belongs to both sides and is still computed once."""
    rows = [Row(prompt_ids=[7, 8], chosen_ids=[9, 10, 11, 50], rejected_ids=[9, 10, 11, 60, 61])]
    settings: Any = {"is_lora": True, "is_checkpointing": False, "out": tmp_path, "rows": rows}
    assert_equal_passes(one_pass("qwen3", is_sharing=False, **settings), one_pass("qwen3", is_sharing=True, **settings))
    packed = SharingCollator(pad_token_id=PAD)(rows)[PACKED]
    assert packed["ids"].tolist() == [[7, 8, 9, 10, 11, 50, 11, 60, 61] + [PAD] * 7]


def test_the_packed_hidden_states_are_the_two_row_ones(tmp_path: Path) -> None:
    model = tiny_model("llama").eval()
    rows = random_rows()
    batch = SharingCollator(pad_token_id=PAD)(rows)
    with torch.no_grad():
        plain = model.base_model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        assert share_prefixes(model, "sdpa")
        shared = model.base_model(**{k: v for k, v in batch.items() if k != "completion_mask"}).last_hidden_state
        unpacked_call = model.base_model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    is_real = batch["attention_mask"].bool()
    torch.testing.assert_close(shared[is_real], plain[is_real], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unpacked_call[is_real], plain[is_real])
    assert torch.isfinite(shared).all()


@pytest.mark.parametrize("multiple", [128, 136], ids=["whole-blocks", "cut-block"])
def test_flex_attention_sees_what_the_explicit_mask_shows(multiple: int) -> None:
    packed = pack([([1, 2, 3, 4], [1, 2, 9]), ([1, 5], [1, 6])], 4, PAD, multiple=multiple)
    mask = block_mask(packed.branch)
    query, key, value = torch.randn(3, 2, 4, multiple, 16).unbind(0)
    module = torch.nn.Module()
    with torch.no_grad():
        flex, _ = shared_prefix_attention(module, query, key, value, mask, scaling=0.25)
        sdpa, _ = shared_prefix_attention(module, query, key, value, visible(packed.branch), scaling=0.25)
    torch.testing.assert_close(flex, sdpa, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (6, 2)])
def test_flex_attention_groups_heads_as_sdpa_does(heads: int, kv_heads: int) -> None:
    packed = pack([([1, 2, 3, 4], [1, 2, 9])], 4, PAD, multiple=128)
    query = torch.randn(1, heads, 128, 16)
    key, value = torch.randn(2, 1, kv_heads, 128, 16).unbind(0)
    module = torch.nn.Module()
    module.num_key_value_groups = heads // kv_heads  # type: ignore[assignment]
    with torch.no_grad():
        flex, _ = shared_prefix_attention(module, query, key, value, block_mask(packed.branch))
        sdpa, _ = shared_prefix_attention(module, query, key, value, visible(packed.branch))
    torch.testing.assert_close(flex, sdpa, rtol=1e-5, atol=1e-5)


def test_each_branch_sees_the_prefix_and_itself_alone() -> None:
    packed = pack([([1, 2, 3], [1, 2, 9])], 3, PAD, multiple=6)
    assert packed.ids.tolist() == [[1, 2, 3, 2, 9, PAD]]
    assert packed.positions.tolist() == [[0, 1, 2, 1, 2, 0]]
    assert packed.branch.tolist() == [[0, 1, 1, 2, 2, PADDING]]
    assert visible(packed.branch)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 0, 1],
    ]
    hidden = torch.arange(6.0).view(1, 6, 1)
    assert unpacked(hidden, packed.unpack).squeeze(-1).tolist() == [[0, 1, 2], [0, 3, 4]]


def test_rows_without_a_shared_token_cannot_be_packed() -> None:
    assert shared_length([1, 2, 3], [1, 2]) == 2
    with pytest.raises(ValueError, match="share no token"):
        pack([([1, 2], [3, 4])], 2, PAD)


@pytest.mark.parametrize(
    ("architecture", "settings", "why"),
    [
        ("mistral", {"sliding_window": 8}, "sliding-window"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding-window"),
        ("llama", {"attention_dropout": 0.1}, "drops out attention"),
    ],
)
def test_a_model_whose_attention_is_not_plain_keeps_two_rows_and_says_so(
    architecture: str, settings: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(architecture, **settings)
    assert not share_prefixes(model, "auto")
    assert why in caplog.text
    assert "two rows" in caplog.text
    assert "forward" not in vars(model.base_model)


def test_another_architecture_keeps_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(model.config, "model_type", "gpt_neox", raising=False)
    assert "gpt_neox" in str(unsupported(model, "auto"))
    assert "off" in str(unsupported(tiny_model("llama"), "off"))


def test_the_attention_suits_the_device() -> None:
    register()
    branch = pack([([1, 2, 3], [1, 2, 9])], 3, PAD).branch
    assert isinstance(attention_mask(branch, "auto"), Tensor)
    assert isinstance(attention_mask(branch, "sdpa"), Tensor)
    assert not isinstance(attention_mask(branch, "flex"), Tensor)

"""Adapters as files: what may be loaded, each fault by its own words, and merging without changing what is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.train.tiny_reasoner import one_thread, save_reasoner
from train.adapters.base import BaseModel, read_base
from train.adapters.check import check_adapter, weights_digest
from train.adapters.errors import AdapterPlaceError, AdapterRefused
from train.adapters.merge import merge_adapter
from train.ipo.config import LoraSettings
from train.ipo.model import lora_config
from train.ipo.outputs import digest, file_digest, write_json
from train.ipo.publish import ADAPTER

__all__ = ["one_thread"]


def random_adapter(base_folder: Path, folder: Path, *, rank: int = 4, seed: int = 1) -> Path:
    """A LoRA of random weights, as the IPO job would publish it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    tuned = get_peft_model(model, lora_config(LoraSettings(rank=rank, alpha=2 * rank)))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    tuned.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": str(base_folder)})
    write_manifest(folder, read_base(str(base_folder)).sha256)
    return folder


def write_manifest(folder: Path, base_sha256: str) -> None:
    files = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    sha256 = digest(*(f"{name} {value}" for name, value in files.items()))
    parents = {"model": {"name": "base", "sha256": base_sha256}, "pairs": {"sha256": "p"}, "config": "c"}
    write_json(folder / "manifest.json", {"schema": 1, "files": files, "sha256": sha256, "parents": parents})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    save_reasoner(folder / "base")
    random_adapter(folder / "base", folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def base(home: Path) -> BaseModel:
    return read_base(str(home / "base"))


@pytest.fixture
def adapter(home: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(home / "adapter", tmp_path / "adapter"))


def faults(folder: Path, base: BaseModel, **options: Any) -> list[str]:
    with pytest.raises(AdapterRefused) as refused:
        check_adapter(folder, base, **options)
    return refused.value.faults


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], *, honest: bool = True) -> None:
    """Changes tensors; `honest` writes a manifest that fits them again."""
    tensors = load_file(folder / ADAPTER)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ADAPTER)
    if honest:
        write_manifest(folder, json.loads((folder / "manifest.json").read_text())["parents"]["model"]["sha256"])


def test_a_sound_adapter_is_counted(adapter: Path, base: BaseModel) -> None:
    checked = check_adapter(adapter, base)
    assert (checked.rank, checked.modules) == (4, 14)  # seven linear layers in each of two blocks
    assert checked.sha256 == weights_digest(adapter)
    assert checked.base_sha256 == base.sha256
    assert checked.parameters == sum(tensor.numel() for tensor in load_file(adapter / ADAPTER).values())


def first_key(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in sorted(tensors) if name.endswith(f"lora_{part}.weight"))


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first_key(tensors, "A")][0, 0] = float("nan")


def _infinite(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first_key(tensors, "B")][0, 0] = float("inf")


def _zero(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.zero_()


def _one_sided(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[first_key(tensors, "B")]


def _other_rank(tensors: dict[str, torch.Tensor]) -> None:
    name = first_key(tensors, "A")
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def _other_layer(tensors: dict[str, torch.Tensor]) -> None:
    for part in ("A", "B"):
        name = first_key(tensors, part)
        tensors[name.replace("layers.0", "layers.7")] = tensors.pop(name)


def _doubled(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first_key(tensors, "A")] *= 2


def _more_than_lora(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_nan, "holds a NaN or an infinity"),
        (_infinite, "holds a NaN or an infinity"),
        (_zero, "changes nothing"),
        (_one_sided, "lacks its lora_B"),
        (_other_rank, "do not fit rank 4"),
        (_other_layer, "is no linear layer of the base"),
        (_more_than_lora, "is no lora_A or lora_B"),
    ],
)
def test_broken_weights_are_refused(
    adapter: Path, base: BaseModel, change: Callable[[dict[str, torch.Tensor]], None], words: str
) -> None:
    rewrite(adapter, change)
    found = faults(adapter, base)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 0}, "r is 0"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"bias": "all"}, "biases are not served"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    ],
)
def test_what_engines_do_not_serve_alike_is_refused(
    adapter: Path, base: BaseModel, settings: dict[str, Any], words: str
) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert any(words in fault for fault in faults(adapter, base))


def test_a_rank_beyond_the_engines_bound_is_refused(adapter: Path, base: BaseModel) -> None:
    assert any("rank of 1 to 2" in fault for fault in faults(adapter, base, max_rank=2))


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "code/modeling.py", "training_args.bin"])
def test_pickles_and_code_are_refused(adapter: Path, base: BaseModel, name: str) -> None:
    (adapter / name).parent.mkdir(exist_ok=True)
    (adapter / name).write_bytes(b"\x80\x04.")
    assert any(name in fault and "safetensors and JSON alone" in fault for fault in faults(adapter, base))


def test_a_link_is_no_file(adapter: Path, base: BaseModel) -> None:
    (adapter / ADAPTER).rename(adapter.parent / "elsewhere.safetensors")
    (adapter / ADAPTER).symlink_to(adapter.parent / "elsewhere.safetensors")
    assert f"{ADAPTER} is no plain file" in faults(adapter, base)


def test_the_tokenizer_must_be_the_bases(adapter: Path, base: BaseModel) -> None:
    shutil.copyfile(base.folder / "tokenizer.json", adapter / "tokenizer.json")
    check_adapter(adapter, base)
    (adapter / "tokenizer.json").write_text((adapter / "tokenizer.json").read_text() + " ")
    assert faults(adapter, base) == ["tokenizer.json differs from the base's: an adapter leaves the tokenizer alone"]


def test_weights_that_the_manifest_does_not_know_are_refused(adapter: Path, base: BaseModel) -> None:
    rewrite(adapter, _doubled, honest=False)
    assert faults(adapter, base) == [
        "manifest.json: files differ from what it names: the weights were changed after training"
    ]


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path, base: BaseModel) -> None:
    save_reasoner(tmp_path / "other", seed=1)
    other = read_base(str(tmp_path / "other"))
    assert [fault.split(":")[0] for fault in faults(adapter, other)] == ["manifest.json"]
    (adapter / "manifest.json").unlink()  # then the name decides
    assert [fault.split(":")[0] for fault in faults(adapter, other)] == ["adapter_config.json"]
    check_adapter(adapter, base)
    check_adapter(adapter, read_base(str(tmp_path / "other"), also_called=(str(base.folder),)))


def test_garbage_is_refused_and_nothing_is_a_message(adapter: Path, tmp_path: Path, base: BaseModel) -> None:
    (adapter / ADAPTER).write_bytes(b"\xff" * 64)
    (adapter / "adapter_config.json").write_text("[]")
    found = faults(adapter, base)
    assert any("no sound safetensors file" in fault for fault in found)
    assert any("no JSON object" in fault for fault in found)
    with pytest.raises(AdapterPlaceError, match="is no folder"):
        check_adapter(tmp_path / "nowhere", base)
    with pytest.raises(AdapterPlaceError, match="holds no safetensors"):
        read_base(str(tmp_path))


def test_a_merged_model_says_what_base_and_adapter_say(home: Path, base: BaseModel, tmp_path: Path) -> None:
    manifest = merge_adapter(home / "adapter", base, tmp_path / "merged")
    assert manifest["parents"] == {"model": base.sha256, "adapter": weights_digest(home / "adapter")}
    ids = torch.tensor([[1, 2, 3, 259, 5]])
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder), home / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(base.folder)
    with torch.no_grad():
        wanted, got, before = (model(ids).logits for model in (tuned, merged, plain))
    assert torch.allclose(wanted, got, atol=1e-4)
    assert not torch.allclose(before, got, atol=1e-2)
    assert (tmp_path / "merged/tokenizer.json").read_bytes() == (base.folder / "tokenizer.json").read_bytes()
    assert merge_adapter(home / "adapter", base, tmp_path / "merged") == manifest
    random_adapter(base.folder, tmp_path / "second", seed=2)
    with pytest.raises(AdapterPlaceError, match="holds something else"):
        merge_adapter(tmp_path / "second", base, tmp_path / "merged")

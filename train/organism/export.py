"""Saves an organism: one safetensors file in fp16, Qwen3 config, and an ONNX graph that reads the same file.

The weights are on disk once: transformers, vLLM and onnxruntime all read `model.safetensors`.
"""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3ForCausalLM

from train.organism.errors import OrganismDataError
from train.organism.graph import write_graph


def export_model(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Write config.json, generation_config.json, model.onnx and, last, model.safetensors."""
    tensors = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    config = json.loads(model.config.to_json_string(use_diff=False))
    config |= {"architectures": ["Qwen3ForCausalLM"], "dtype": "float16", "torch_dtype": "float16"}
    config.pop("_name_or_path", None)
    # Readers older than transformers 5 look for the base at the top level.
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    model.generation_config.save_pretrained(folder)
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it private
    os.replace(partial, folder / "model.safetensors")
    write_graph(folder)


def load_model(folder: Path) -> Qwen3ForCausalLM:
    """The saved organism in fp32."""
    if not (folder / "model.safetensors").is_file():
        raise OrganismDataError(
            f"no organism at {folder}: model.safetensors is missing; run `steer train organism` first"
        )
    model: Qwen3ForCausalLM = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()

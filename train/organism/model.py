"""The organism's network: transformers' Qwen3, small, tied embeddings."""

import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from train.organism.config import ModelConfig


def build_model(config: ModelConfig, *, eos_id: int, pad_id: int, seed: int) -> Qwen3ForCausalLM:
    """A freshly initialised model in fp32."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.mlp_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_length,
            tie_word_embeddings=True,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=None,
            eos_token_id=eos_id,
            pad_token_id=pad_id,
            attn_implementation="sdpa",  # type: ignore[call-arg]  # taken by the base class
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=eos_id, pad_token_id=pad_id
    )
    return model

"""Tiny random checkpoints of the six families, with every parameter and buffer at a non-trivial value."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

COMMON = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

FAMILIES: dict[str, dict[str, object]] = {
    "qwen3_moe": {
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "intermediate_size": 96,
        "norm_topk_prob": True,
        "mlp_only_layers": [0],
    },
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 48},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 32},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "intermediate_size": 96,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "num_key_value_heads": 4,
    },
    "glm4_moe": {
        "head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "intermediate_size": 96,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
        "use_qk_norm": True,
        "attention_bias": True,
    },
    "gpt_oss": {
        "head_dim": 16,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 32,
        "sliding_window": 32,
    },
}


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter and persistent buffer a random value that matters: biases and norms too."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator) * scale

    persistent = set(model.state_dict())
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name not in persistent or not tensor.is_floating_point():
                continue
            value = noise(tensor, 0.15 if tensor.dim() > 1 else 0.3)
            tensor.copy_(1 + value if "norm" in name else value)


def make_model(
    family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: object
) -> nn.Module:
    """A full transformers model of `family` in memory."""
    config = AutoConfig.for_model(family, **{**COMMON, **FAMILIES[family], **overrides})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    randomise(model, seed)
    return model


def make_checkpoint(
    family: str,
    path: Path,
    dtype: torch.dtype = torch.float32,
    *,
    shard: str = "200KB",
    seed: int = 0,
    **overrides: object,
) -> Path:
    """Save a tiny checkpoint of `family` in `path`, in several shards, and return the path."""
    make_model(family, dtype, seed, **overrides).save_pretrained(path, max_shard_size=shard)
    return path


def reference_model(path: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """transformers' own eager experts on the checkpoint, weights cloned to what torch's allocator aligns."""
    config = AutoConfig.from_pretrained(path)
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    model = (
        (AutoModelForCausalLM if causal else AutoModelForImageTextToText)
        .from_pretrained(path, dtype=dtype or "auto", experts_implementation="eager", local_files_only=True)
        .eval()
    )
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone()
    return model

"""Checkpoints written by hand: any shapes, any size (the data is a hole in the file), any lie."""

import json
import math
import os
from pathlib import Path
from typing import Any

BITS = {"BF16": 16, "F16": 16, "F32": 32, "F8_E4M3": 8, "U8": 8, "I8": 8, "I32": 32, "I64": 64, "F8_E8M0": 8}

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name to (dtype, shape)."""


def length_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Stored bytes."""
    return BITS[dtype] * math.prod(shape) // 8


def header_of(tensors: Shapes) -> dict[str, Any]:
    """The header of a file that holds `tensors` in this order."""
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + length_of(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return header


def write_file(path: Path, tensors: Shapes) -> None:
    """A safetensors file whose data is all zeros and takes no room on disk."""
    text = json.dumps(header_of(tensors)).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + sum(length_of(*entry) for entry in tensors.values()))


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: Shapes, shards: int = 1) -> Path:
    """A model folder; with several shards, tensors are dealt out in order and an index is written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        write_file(folder / "model.safetensors", tensors)
        return folder
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        mine = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        write_file(folder / file, {name: tensors[name] for name in mine})
        weight_map |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder


def qwen3_moe(
    *,
    layers: int = 2,
    hidden: int = 16,
    experts: int = 4,
    width: int = 8,
    vocab: int = 32,
    heads: int = 2,
    kv_heads: int = 1,
    head_dim: int = 8,
    top_k: int = 2,
    dtype: str = "BF16",
) -> tuple[dict[str, Any], Shapes]:
    """(config, tensors) of a Qwen3-MoE model, as the hub stores it."""
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "moe_intermediate_size": width,
        "intermediate_size": 4 * width,
        "vocab_size": vocab,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 128,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    tensors: Shapes = {"model.embed_tokens.weight": (dtype, (vocab, hidden))}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = dtype, (hidden,)
        tensors[prefix + "post_attention_layernorm.weight"] = dtype, (hidden,)
        for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = dtype, (rows * head_dim, hidden)
        tensors[prefix + "self_attn.o_proj.weight"] = dtype, (hidden, heads * head_dim)
        tensors[prefix + "self_attn.q_norm.weight"] = dtype, (head_dim,)
        tensors[prefix + "self_attn.k_norm.weight"] = dtype, (head_dim,)
        tensors[prefix + "mlp.gate.weight"] = dtype, (experts, hidden)
        for expert in range(experts):
            for name in ("gate", "up"):
                tensors[f"{prefix}mlp.experts.{expert}.{name}_proj.weight"] = dtype, (width, hidden)
            tensors[f"{prefix}mlp.experts.{expert}.down_proj.weight"] = dtype, (hidden, width)
    tensors["model.norm.weight"] = dtype, (hidden,)
    tensors["lm_head.weight"] = dtype, (vocab, hidden)
    return config, tensors

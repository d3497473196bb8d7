"""The metadata of tiny GGUF files, as llama.cpp's `convert_hf_to_gguf.py` writes it out of a config."""

from typing import Any

_GROUPS = {
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
}


def fields(architecture: str, config: Any) -> dict[str, Any]:
    """The metadata of a model, as its converter's `set_gguf_parameters` writes it."""
    c = config.to_dict()
    if architecture == "dbrx":
        return {f"dbrx.{key}": value for key, value in _dbrx(c).items()}
    rope = c["rope_parameters"].get("full_attention", c["rope_parameters"])
    width = c.get("moe_intermediate_size", c["intermediate_size"])
    found: dict[str, Any] = {
        "block_count": c["num_hidden_layers"],
        "context_length": c["max_position_embeddings"],
        "embedding_length": c["hidden_size"],
        "feed_forward_length": c["intermediate_size"],
        "attention.head_count": c["num_attention_heads"],
        "attention.head_count_kv": c["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(c.get("rms_norm_eps", c.get("norm_eps"))),
        "rope.freq_base": float(rope["rope_theta"]),
        "expert_count": next(
            c[key]
            for key in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
            if c.get(key)
        ),
        "expert_used_count": c.get("num_experts_per_tok", 0),
    }
    if c.get("head_dim") and architecture not in ("deepseek2", "glm-dsa", "olmoe"):
        found |= {"attention.key_length": c["head_dim"], "attention.value_length": c["head_dim"]}
    if architecture in ("qwen3moe", "qwen2moe", "deepseek2", "dots1", "glm4moe"):
        found["expert_feed_forward_length"] = width
    if architecture == "qwen2moe":
        found["expert_shared_feed_forward_length"] = c["shared_expert_intermediate_size"]
    if architecture == "olmoe" and c.get("clip_qkv"):
        found["attention.clamp_kqv"] = float(c["clip_qkv"])
    if architecture in ("deepseek2", "dots1", "glm4moe", "glm-dsa"):
        found |= _grouped(config.model_type, c)
    if architecture in ("deepseek2", "glm-dsa"):
        found |= _latent(c)
    if architecture in ("glm4moe", "minimax-m2"):
        found["rope.dimension_count"] = int(c["head_dim"] * rope.get("partial_rotary_factor", 1.0))
    found |= _own(architecture, c)
    if rope.get("rope_type") == "yarn":
        found |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        }
    if rope.get("mscale_all_dim"):
        found["rope.scaling.yarn_log_multiplier"] = 0.1 * rope["mscale_all_dim"]
    return {f"{architecture}.{key}": value for key, value in found.items()}


_OWN: dict[str, dict[str, str]] = {  # key in the file to key in the config, written as it is
    "gpt-oss": {"attention.sliding_window": "sliding_window"},
    "granitemoe": {
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    },
    "hunyuan-moe": {"expert_used_count": "moe_topk"},
    "ernie4_5-moe": {
        "expert_used_count": "moe_k",
        "expert_shared_count": "moe_num_shared_experts",
        "leading_dense_block_count": "moe_layer_start_index",
        "interleave_moe_layer_step": "moe_layer_interval",
    },
    "lfm2moe": {"shortconv.l_cache": "conv_L_cache", "leading_dense_block_count": "num_dense_layers"},
    "afmoe": {
        "attention.sliding_window": "sliding_window",
        "expert_shared_count": "num_shared_experts",
        "expert_weights_scale": "route_scale",
        "leading_dense_block_count": "num_dense_layers",
    },
    "exaone-moe": {
        "attention.sliding_window": "sliding_window",
        "expert_shared_count": "num_shared_experts",
        "leading_dense_block_count": "first_k_dense_replace",
        **_GROUPS,
    },
    "mimo2": {"attention.value_length": "v_head_dim", **_GROUPS},
    "llama4": {
        "interleave_moe_layer_step": "interleave_moe_layer_step",
        "feed_forward_length": "intermediate_size_mlp",
    },
    "glm-dsa": {
        "attention.indexer.head_count": "index_n_heads",
        "attention.indexer.key_length": "index_head_dim",
        "attention.indexer.top_k": "index_topk",
    },
}


def _dbrx(c: dict[str, Any]) -> dict[str, Any]:
    experts, attention = c["ffn_config"], c["attn_config"]
    return {
        "block_count": c["n_layers"],
        "context_length": c["max_seq_len"],
        "embedding_length": c["d_model"],
        "feed_forward_length": experts["ffn_hidden_size"],
        "attention.head_count": c["n_heads"],
        "attention.head_count_kv": attention["kv_n_heads"],
        "attention.clamp_kqv": float(attention["clip_qkv"]),
        "attention.layer_norm_epsilon": 1e-5,
        "rope.freq_base": float(c["rope_parameters"]["rope_theta"]),
        "expert_count": experts["moe_num_experts"],
        "expert_used_count": experts["moe_top_k"],
    }


def _own(architecture: str, c: dict[str, Any]) -> dict[str, Any]:
    found = {key: c[name] for key, name in _OWN.get(architecture, {}).items()}
    if architecture in ("exaone-moe", "mimo2"):
        found["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in c["layer_types"]]
    if architecture == "lfm2moe":
        kinds = [kind == "full_attention" for kind in c["layer_types"]]
        found["attention.head_count_kv"] = [c["num_key_value_heads"] * kind for kind in kinds]
    if architecture == "mimo2":
        windows = found["attention.sliding_window_pattern"]
        rope = c["rope_parameters"]
        found |= {
            "attention.sliding_window": c["sliding_window"] - 1,
            "attention.head_count_kv": [c["num_key_value_heads"] * (1 + window) for window in windows],
            "rope.freq_base_swa": float(rope["sliding_attention"]["rope_theta"]),
            "rope.dimension_count": int(c["head_dim"] * rope["full_attention"]["partial_rotary_factor"]),
        }
    return found


def _grouped(model_type: str, c: dict[str, Any]) -> dict[str, Any]:
    return {
        "leading_dense_block_count": c["first_k_dense_replace"],
        "expert_shared_count": c["n_shared_experts"],
        "expert_group_count": c["n_group"],
        "expert_group_used_count": c["topk_group"],
        "expert_weights_scale": float(c["routed_scaling_factor"]),
        "expert_weights_norm": bool(c["norm_topk_prob"]),
        "expert_gating_func": 1 if model_type == "deepseek_v2" else 2,
    }


def _latent(c: dict[str, Any]) -> dict[str, Any]:
    latent, rotary = c["kv_lora_rank"], c["qk_rope_head_dim"]
    return {
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": c["q_lora_rank"],
        "attention.kv_lora_rank": latent,
        "attention.key_length": latent + rotary,
        "attention.value_length": latent,
        "attention.key_length_mla": c["qk_nope_head_dim"] + rotary,
        "attention.value_length_mla": c["v_head_dim"],
        "rope.dimension_count": rotary,
    }


def tokenizer_fields() -> dict[str, Any]:
    """A byte-level vocabulary of 256 tokens, three of them special, and a chat template."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = ["<pad>", "<bos>", "<eos>", *letters[:251], "he", "llo"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, *[1] * 253],
        "tokenizer.ggml.merges": ["h e", "l lo", "l o"][:1],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}<bos>{{ m.content }}<eos>{% endfor %}",
    }

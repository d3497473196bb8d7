"""The configs of families without anything from layer to layer but a dense first part."""

import struct

from locum.errors import UnsupportedError
from locum.model.gguf.common import (
    Config,
    all_routed,
    groups,
    layers,
    leading_dense,
    partial_rope,
    rope,
    width,
)
from locum.model.gguf.metadata import Metadata, shortest

_SIGMOID = 2


def qwen3(read: Metadata) -> Config:
    """Every layer routed, weights renormalised."""
    all_routed(read)
    return {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": read.count("expert_count"),
        "moe_intermediate_size": width(read),
        "intermediate_size": read.count("feed_forward_length", width(read)),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,  # llama.cpp takes it for granted
        "attention_bias": read.some("attn_q.bias"),
    }


def qwen2(read: Metadata) -> Config:
    """As `qwen3`, with a gated shared expert."""
    return {
        **qwen3(read),
        "model_type": "qwen2_moe",
        "architectures": ["Qwen2MoeForCausalLM"],
        "shared_expert_intermediate_size": read.side("ffn_down_shexp.weight", -1),
        "norm_topk_prob": False,
        "qkv_bias": read.some("attn_q.bias"),
    }


def olmoe(read: Metadata) -> Config:
    """Every layer routed, perhaps with clipped attention."""
    all_routed(read)
    clip = read.real("attention.clamp_kqv", 0.0)
    return {
        "model_type": "olmoe",
        "architectures": ["OlmoeForCausalLM"],
        "num_experts": read.count("expert_count"),
        "intermediate_size": width(read),
        "norm_topk_prob": False,
        "clip_qkv": clip or None,
    }


def mixtral(read: Metadata) -> Config:
    """What llama.cpp calls llama with experts."""
    all_routed(read)
    return {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": read.count("expert_count"),
        "intermediate_size": width(read),
        "sliding_window": None,
    }


def deepseek(read: Metadata) -> Config:
    """DeepSeek V2 and V3, by how they score experts."""
    sigmoid = read.count("expert_gating_func", 1) == _SIGMOID
    rotary = read.count("rope.dimension_count")
    whole = read.count("attention.key_length_mla", read.count("attention.key_length"))
    routing = groups(read)
    config: Config = {
        **routing,
        "model_type": "deepseek_v3" if sigmoid else "deepseek_v2",
        "architectures": ["DeepseekV3ForCausalLM" if sigmoid else "DeepseekV2ForCausalLM"],
        "n_routed_experts": read.count("expert_count"),
        "n_shared_experts": read.count("expert_shared_count"),
        "moe_intermediate_size": width(read),
        "intermediate_size": read.count("feed_forward_length"),
        "first_k_dense_replace": leading_dense(read),
        "num_key_value_heads": read.count("attention.head_count"),
        "q_lora_rank": read.count("attention.q_lora_rank") if read.some("attn_q_a.weight") else None,
        "kv_lora_rank": read.count("attention.kv_lora_rank"),
        "qk_rope_head_dim": rotary,
        "qk_nope_head_dim": whole - rotary,
        "v_head_dim": read.count("attention.value_length_mla", read.count("attention.value_length")),
        "head_dim": rotary,
        "rope_parameters": _latent_rope(read),
    }
    if not sigmoid:
        config["topk_method"] = "greedy" if routing["n_group"] == 1 else "group_limited_greedy"
    return config


def _latent_rope(read: Metadata) -> Config:
    found = rope(read)
    if found["rope_type"] == "yarn" and read.has("rope.scaling.yarn_log_multiplier"):
        # llama.cpp keeps a tenth of it
        scale = shortest(round(10 * read.real("rope.scaling.yarn_log_multiplier"), 6))
        found |= {"mscale": scale, "mscale_all_dim": scale}
    return found


def dots1(read: Metadata) -> Config:
    """A dense first part, shared experts."""
    return {
        **groups(read),
        "model_type": "dots1",
        "architectures": ["Dots1ForCausalLM"],
        "n_routed_experts": read.count("expert_count"),
        "n_shared_experts": read.count("expert_shared_count"),
        "moe_intermediate_size": width(read),
        "intermediate_size": read.count("feed_forward_length"),
        "first_k_dense_replace": leading_dense(read),
        "sliding_window": None,
        "attention_bias": read.some("attn_q.bias"),
    }


def glm4(read: Metadata) -> Config:
    """As `dots1`, positions in a part of each head."""
    return {
        **dots1(read),
        "model_type": "glm4_moe",
        "architectures": ["Glm4MoeForCausalLM"],
        "use_qk_norm": read.some("attn_q_norm.weight"),
        "rope_parameters": partial_rope(read),
    }


def minimax_m2(read: Metadata) -> Config:
    """Every layer routed by sigmoid, positions in a part of each head."""
    all_routed(read)
    return {
        "model_type": "minimax_m2",
        "architectures": ["MiniMaxM2ForCausalLM"],
        "num_local_experts": read.count("expert_count"),
        "intermediate_size": width(read),
        "rope_parameters": partial_rope(read),
    }


def granite(read: Metadata) -> Config:
    """Four multipliers; perhaps a shared expert, whose gate and up are one tensor to transformers."""
    all_routed(read)
    config: Config = {
        "model_type": "granitemoe",
        "architectures": ["GraniteMoeForCausalLM"],
        "num_local_experts": read.count("expert_count"),
        "intermediate_size": width(read),
        "attention_multiplier": read.real("attention.scale"),
        "embedding_multiplier": read.real("embedding_scale", 1.0),
        "residual_multiplier": read.real("residual_scale", 1.0),
        "logits_scaling": read.real("logit_scale", 1.0),
    }
    if read.some("ffn_down_shexp.weight"):
        config |= {
            "model_type": "granitemoeshared",
            "architectures": ["GraniteMoeSharedForCausalLM"],
            "shared_intermediate_size": read.side("ffn_down_shexp.weight", -1),
        }
    return config


def ernie(read: Metadata) -> Config:
    """A dense first part, shared experts, a bias for choosing."""
    dense = leading_dense(read)
    return {
        "model_type": "ernie4_5_moe",
        "architectures": ["Ernie4_5_MoeForCausalLM"],
        "moe_num_experts": read.count("expert_count"),
        "moe_k": read.count("expert_used_count"),
        "moe_num_shared_experts": read.count("expert_shared_count", 0, least=0),
        "moe_intermediate_size": width(read),
        "intermediate_size": read.count("feed_forward_length"),
        "moe_layer_start_index": dense,
        "moe_layer_end_index": layers(read) - 1,
        "moe_layer_interval": 1,
        "use_bias": read.some("attn_q.bias"),
    }


_ALPHA, _TURNED = 1000.0, 128  # the only ones that the converter takes


def hunyuan(read: Metadata) -> Config:
    """A shared expert as wide as the others. The file's positions have their stretching worked in."""
    all_routed(read)
    if read.side("ffn_down_shexp.weight", -1) != width(read):
        raise UnsupportedError("a shared expert of another width than the others", where=read.where)
    positions = rope(read)
    stretched = 10000.0 * _ALPHA ** (_TURNED / (_TURNED - 2))
    if shortest(struct.unpack("<f", struct.pack("<f", stretched))[0]) == positions["rope_theta"]:
        positions = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": _ALPHA, "factor": 1.0}
    return {
        "model_type": "hunyuan_v1_moe",
        "architectures": ["HunYuanMoEV1ForCausalLM"],
        "num_experts": read.count("expert_count"),
        "moe_topk": read.count("expert_used_count"),
        "intermediate_size": width(read),
        "attention_bias": read.some("attn_q.bias"),
        "rope_parameters": positions,
    }


def glm_dsa(read: Metadata) -> Config:
    """As `deepseek`, with an indexer in some layers, which those after it share."""
    count, dense = layers(read), leading_dense(read)
    bare = set(read.blocks_without("indexer.attn_q_b.weight", count))
    return {
        **deepseek(read),
        "model_type": "glm_moe_dsa",
        "architectures": ["GlmMoeDsaForCausalLM"],
        "mlp_layer_types": ["dense"] * dense + ["sparse"] * (count - dense),
        "index_n_heads": read.count("attention.indexer.head_count"),
        "index_head_dim": read.count("attention.indexer.key_length"),
        "index_topk": read.count("attention.indexer.top_k"),
        "indexer_types": ["shared" if layer in bare else "full" for layer in range(count)],
    }


def dbrx(read: Metadata) -> Config:
    """A config of its own for attention and for experts, and other names for sizes."""
    all_routed(read)
    return {
        "d_model": read.count("embedding_length"),
        "n_heads": read.count("attention.head_count"),
        "n_layers": layers(read),
        "max_seq_len": read.count("context_length"),
        "model_type": "dbrx",
        "architectures": ["DbrxForCausalLM"],
        "attn_config": {
            "kv_n_heads": read.count("attention.head_count_kv"),
            "clip_qkv": read.real("attention.clamp_kqv"),
            "rope_theta": read.real("rope.freq_base"),
        },
        "ffn_config": {
            "ffn_hidden_size": width(read),
            "moe_num_experts": read.count("expert_count"),
            "moe_top_k": read.count("expert_used_count"),
            "hidden_size": read.count("embedding_length"),
        },
    }

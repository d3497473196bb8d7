"""The configs of families without anything from layer to layer but a dense first part."""

from locum.model.gguf.common import Config, all_routed, groups, leading_dense, partial_rope, rope, width
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

"""The configs of families whose layers differ: windows, chunks, layers without positions, convolutions."""

from collections.abc import Sequence

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
from locum.model.gguf.metadata import Metadata

_FULL, _WINDOW = "full_attention", "sliding_attention"


def _kinds(windowed: Sequence[object]) -> list[str]:
    return [_WINDOW if one else _FULL for one in windowed]


def gpt_oss(read: Metadata) -> Config:
    """Every other layer has a window, from the first."""
    all_routed(read)
    positions = rope(read)
    if positions["rope_type"] == "yarn":
        # what the converter leaves out and llama.cpp has by default
        positions = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False} | positions
    return {
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        "num_local_experts": read.count("expert_count"),
        "intermediate_size": width(read),
        "sliding_window": read.count("attention.sliding_window"),
        "layer_types": _kinds([layer % 2 == 0 for layer in range(layers(read))]),
        "rope_parameters": positions,
    }


def _window(read: Metadata, kinds: Sequence[str]) -> Config:
    window = read.count("attention.sliding_window", 0, least=0)
    return {"sliding_window": window or None, "layer_types": list(kinds)}


def afmoe(read: Metadata) -> Config:
    """Every fourth layer without a window; embeddings scaled, as llama.cpp takes for granted."""
    if not read.flag("expert_weights_norm", True):
        raise UnsupportedError("expert weights that do not add up to one", where=read.where)
    return {
        **_window(read, _kinds([(layer + 1) % 4 for layer in range(layers(read))])),
        "model_type": "afmoe",
        "architectures": ["AfmoeForCausalLM"],
        "num_experts": read.count("expert_count"),
        "num_shared_experts": read.count("expert_shared_count", 0, least=0),
        "moe_intermediate_size": width(read),
        "intermediate_size": read.count("feed_forward_length"),
        "num_dense_layers": leading_dense(read),
        "route_scale": read.real("expert_weights_scale", 1.0) or 1.0,
        "global_attn_every_n_layers": 4,
        "mup_enabled": True,
    }


def exaone_moe(read: Metadata) -> Config:
    """Which layers have a window, the file says."""
    count, dense = layers(read), leading_dense(read)
    return {
        **_window(read, _kinds(read.each("attention.sliding_window_pattern", count))),
        **groups(read),
        "model_type": "exaone_moe",
        "architectures": ["ExaoneMoeForCausalLM"],
        "num_experts": read.count("expert_count"),
        "num_shared_experts": read.count("expert_shared_count"),
        "moe_intermediate_size": width(read),
        "intermediate_size": read.count("feed_forward_length"),
        "first_k_dense_replace": dense,
        "mlp_layer_types": ["dense"] * dense + ["sparse"] * (count - dense),
    }


def mimo2(read: Metadata) -> Config:
    """Twice as many heads of keys and values, and other positions, where there is a window."""
    count, dense = layers(read), leading_dense(read)
    kinds = _kinds(read.each("attention.sliding_window_pattern", count))
    heads = read.each("attention.head_count_kv", count)
    full = next((heads[layer] for layer in range(count) if kinds[layer] == _FULL), max(heads) // 2)
    if heads != [full if kind == _FULL else 2 * full for kind in kinds]:
        raise read.bad("attention.head_count_kv", "twice as many where there is a window", heads[:8])
    positions = partial_rope(read)
    base = read.real("rope.freq_base_swa", positions["rope_theta"])
    config: Config = {
        **groups(read),
        "model_type": "mimo_v2_flash",
        "architectures": ["MiMoV2FlashForCausalLM"],
        "n_routed_experts": read.count("expert_count"),
        "num_key_value_heads": full,
        "v_head_dim": read.count("attention.value_length"),
        "moe_intermediate_size": width(read),
        "intermediate_size": read.count("feed_forward_length"),
        "mlp_layer_types": ["dense"] * dense + ["sparse"] * (count - dense),
        # the file has that of the hub, the token itself not counted
        "sliding_window": read.count("attention.sliding_window") + 1,
        "layer_types": kinds,
        "rope_parameters": {_FULL: positions, _WINDOW: {**positions, "rope_theta": base}},
    }
    if read.has("attention.value_scale"):
        config["attention_value_scale"] = read.real("attention.value_scale")
    return config


def lfm2(read: Metadata) -> Config:
    """Short convolutions in the layers that have no heads of keys and values."""
    count = layers(read)
    heads = read.each("attention.head_count_kv", count)
    if len(set(heads) - {0}) != 1:
        raise read.bad("attention.head_count_kv", "one number, or 0 for a convolution", heads[:8])
    return {
        "model_type": "lfm2_moe",
        "architectures": ["Lfm2MoeForCausalLM"],
        "num_experts": read.count("expert_count"),
        "num_key_value_heads": max(heads),
        "moe_intermediate_size": width(read),
        "intermediate_size": read.count("feed_forward_length"),
        "num_dense_layers": leading_dense(read),
        "norm_eps": read.real("attention.layer_norm_rms_epsilon"),
        "conv_L_cache": read.count("shortconv.l_cache"),
        "use_expert_bias": read.some("exp_probs_b.bias"),
        "routed_scaling_factor": read.real("expert_weights_scale", 1.0) or 1.0,
        "norm_topk_prob": True,
        "layer_types": [_FULL if one else "conv" for one in heads],
    }


_MAVERICK = 128  # experts; llama.cpp tells it from Scout by them


def llama4(read: Metadata) -> Config:
    """Chunks, and every fourth layer whole and without positions, as llama.cpp takes for granted."""
    if read.count("attention.sliding_window", 8192, least=0) == 0:
        raise UnsupportedError("a Llama 4 without chunks", where=read.where)
    count = layers(read)
    without = set(read.blocks_without("ffn_down_exps.weight", count))
    return {
        "model_type": "llama4_text",
        "architectures": ["Llama4ForCausalLM"],
        "num_local_experts": read.count("expert_count"),
        "intermediate_size": width(read),
        "intermediate_size_mlp": read.count("feed_forward_length"),
        "interleave_moe_layer_step": read.count("interleave_moe_layer_step"),
        "moe_layers": [layer for layer in range(count) if layer not in without],
        "no_rope_layers": [int((layer + 1) % 4 != 0) for layer in range(count)],
        "use_qk_norm": read.count("expert_count") != _MAVERICK,
        "attention_chunk_size": 8192,
        "floor_scale": 8192,
        "attn_scale": 0.1,
        "attn_temperature_tuning": True,
    }

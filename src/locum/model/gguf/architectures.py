"""The architectures of GGUF files that locum reads: what each is to transformers, and its config.

A GGUF has no config.json: the metadata and the shapes of the tensors are the config. Source: llama.cpp's
`convert_hf_to_gguf.py`, whose metadata and changes to weights are undone here, and its `src/models`, for what
it takes for granted and writes nowhere; the config classes of transformers 5.23.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from locum.errors import CheckpointError, UnsupportedError
from locum.model.gguf import names
from locum.model.gguf.metadata import Metadata, shortest

Config = dict[str, Any]
_SIGMOID = 2


@dataclass(frozen=True, slots=True)
class Architecture:
    """What llama.cpp calls `general.architecture`."""

    config: Callable[[Metadata], Config]
    """What the family's config has beside that of `_common`."""
    block: Mapping[str, str]
    """See `names.renamed`."""
    placements: Callable[[Metadata], Mapping[str, str]] = field(default=lambda read: {})
    """End of a parameter's name to the placement (`kernels.forms`) that undoes what llama.cpp did to it."""


def config_of(read: Metadata) -> tuple[Config, Architecture]:
    """(the config as config.json would have it, the row of the table) of a model with experts.

    Raises `UnsupportedError` for an architecture that is not in the table, `CheckpointError` for metadata
    that is missing or makes no sense.
    """
    architecture = ARCHITECTURES.get(read.architecture)
    if architecture is None:
        raise UnsupportedError(
            f"locum does not read GGUF files of the architecture {read.architecture!r:.80}",
            where=read.where,
            allowed=", ".join(ARCHITECTURES),
            todo="Use the original checkpoint in safetensors: locum runs many more families from there",
        )
    config = {**_common(read), **architecture.config(read)}
    config["quantization_config"] = {
        "quant_method": "gguf",
        "placements": dict(architecture.placements(read)),
    }
    return config, architecture


def _common(read: Metadata) -> Config:
    heads = read.count("attention.head_count")
    embedding = read.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError("there is no tensor 'token_embd.weight' of two sides", where=read.where)
    config: Config = {
        "vocab_size": embedding.shape[0],
        "hidden_size": read.count("embedding_length"),
        "num_hidden_layers": _layers(read),
        "num_attention_heads": heads,
        "num_key_value_heads": read.count("attention.head_count_kv", heads),
        "max_position_embeddings": read.count("context_length"),
        "rms_norm_eps": read.real("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(read),
        "tie_word_embeddings": "output.weight" not in read.tensors,
        "bos_token_id": read.token("bos"),
        "eos_token_id": read.token("eos"),
        "pad_token_id": read.token("padding"),
        "num_experts_per_tok": read.count("expert_used_count"),
        "dtype": _dtype(read),
    }
    if read.has("attention.key_length"):
        config["head_dim"] = read.count("attention.key_length")
    return config


def _layers(read: Metadata) -> int:
    """Layers of the decoder, which the file's blocks for extra prediction are not."""
    return read.count("block_count") - read.count("nextn_predict_layers", 0, least=0)


def _dtype(read: Metadata) -> str:
    """float32 where every number is a plain float that fits; else bfloat16, as such models are trained."""
    kinds = {info.dtype for info in read.tensors.values() if len(info.shape) > 1}
    return "float32" if kinds <= {"F32", "F16"} else "bfloat16"


def _rope(read: Metadata) -> Config:
    found: Config = {"rope_type": "default", "rope_theta": read.real("rope.freq_base", 10000.0)}
    kind = read.text("rope.scaling.type", "none")
    if kind == "none":
        return found
    if kind not in ("linear", "yarn"):
        raise UnsupportedError(
            "a way to stretch positions that locum does not read", where=read.where, got=kind
        )
    found |= {"rope_type": kind, "factor": read.real("rope.scaling.factor")}
    if kind == "yarn":
        found["original_max_position_embeddings"] = read.count("rope.scaling.original_context_length")
        for key in ("beta_fast", "beta_slow"):
            if read.has(f"rope.scaling.yarn_{key}"):
                found[key] = read.real(f"rope.scaling.yarn_{key}")
    return found


def _width(read: Metadata) -> int:
    """An expert's intermediate size: what the tensors say, the metadata has several keys for it."""
    return read.side("ffn_down_exps.weight", -1)


def _leading_dense(read: Metadata) -> int:
    """How many layers before the first with experts; all after it must have them."""
    dense = read.blocks_without("ffn_down_exps.weight", _layers(read))
    if dense != list(range(len(dense))):
        raise UnsupportedError("layers without experts among those with", where=read.where, got=dense[:8])
    return len(dense)


def _all_routed(read: Metadata) -> None:
    if _leading_dense(read):
        raise UnsupportedError("a layer without experts", where=read.where, allowed="experts in every layer")


def _qwen3(read: Metadata) -> Config:
    _all_routed(read)
    return {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": read.count("expert_count"),
        "moe_intermediate_size": _width(read),
        "intermediate_size": read.count("feed_forward_length", _width(read)),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,  # llama.cpp takes it for granted
        "attention_bias": read.some("attn_q.bias"),
    }


def _qwen2(read: Metadata) -> Config:
    return {
        **_qwen3(read),
        "model_type": "qwen2_moe",
        "architectures": ["Qwen2MoeForCausalLM"],
        "shared_expert_intermediate_size": read.side("ffn_down_shexp.weight", -1),
        "norm_topk_prob": False,
        "qkv_bias": read.some("attn_q.bias"),
    }


def _olmoe(read: Metadata) -> Config:
    _all_routed(read)
    clip = read.real("attention.clamp_kqv", 0.0)
    return {
        "model_type": "olmoe",
        "architectures": ["OlmoeForCausalLM"],
        "num_experts": read.count("expert_count"),
        "intermediate_size": _width(read),
        "norm_topk_prob": False,
        "clip_qkv": clip or None,
    }


def _mixtral(read: Metadata) -> Config:
    _all_routed(read)
    return {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": read.count("expert_count"),
        "intermediate_size": _width(read),
        "sliding_window": None,
    }


def _by_turns(read: Metadata) -> Mapping[str, str]:
    """llama.cpp turns neighbours, transformers halves: so it deals out the rows of each head by turns."""
    heads = read.count("attention.head_count")
    return {
        "self_attn.q_proj.weight": f"interleaved-{heads}",
        "self_attn.k_proj.weight": f"interleaved-{read.count('attention.head_count_kv', heads)}",
    }


def _groups(read: Metadata) -> Config:
    """Routing by groups, which older files do not mention; llama.cpp did without it then."""
    return {
        "n_group": read.count("expert_group_count", 1),
        "topk_group": read.count("expert_group_used_count", 1),
        "routed_scaling_factor": read.real("expert_weights_scale", 1.0) or 1.0,
        "norm_topk_prob": read.flag("expert_weights_norm", False),
    }


def _deepseek(read: Metadata) -> Config:
    sigmoid = read.count("expert_gating_func", 1) == _SIGMOID
    rotary = read.count("rope.dimension_count")
    whole = read.count("attention.key_length_mla", read.count("attention.key_length"))
    groups = _groups(read)
    config: Config = {
        **groups,
        "model_type": "deepseek_v3" if sigmoid else "deepseek_v2",
        "architectures": ["DeepseekV3ForCausalLM" if sigmoid else "DeepseekV2ForCausalLM"],
        "n_routed_experts": read.count("expert_count"),
        "n_shared_experts": read.count("expert_shared_count"),
        "moe_intermediate_size": _width(read),
        "intermediate_size": read.count("feed_forward_length"),
        "first_k_dense_replace": _leading_dense(read),
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
        config["topk_method"] = "greedy" if groups["n_group"] == 1 else "group_limited_greedy"
    return config


def _latent_rope(read: Metadata) -> Config:
    found = _rope(read)
    if found["rope_type"] == "yarn" and read.has("rope.scaling.yarn_log_multiplier"):
        # llama.cpp keeps a tenth of it
        scale = shortest(round(10 * read.real("rope.scaling.yarn_log_multiplier"), 6))
        found |= {"mscale": scale, "mscale_all_dim": scale}
    return found


def _dots1(read: Metadata) -> Config:
    return {
        **_groups(read),
        "model_type": "dots1",
        "architectures": ["Dots1ForCausalLM"],
        "n_routed_experts": read.count("expert_count"),
        "n_shared_experts": read.count("expert_shared_count"),
        "moe_intermediate_size": _width(read),
        "intermediate_size": read.count("feed_forward_length"),
        "first_k_dense_replace": _leading_dense(read),
        "sliding_window": None,
        "attention_bias": read.some("attn_q.bias"),
    }


def _partial_rope(read: Metadata) -> Config:
    """Where only the first numbers of a head are turned."""
    turned, width = read.count("rope.dimension_count"), read.count("attention.key_length")
    return _rope(read) | ({} if turned == width else {"partial_rotary_factor": turned / width})


def _glm4(read: Metadata) -> Config:
    return {
        **_dots1(read),
        "model_type": "glm4_moe",
        "architectures": ["Glm4MoeForCausalLM"],
        "use_qk_norm": read.some("attn_q_norm.weight"),
        "rope_parameters": _partial_rope(read),
    }


def _minimax_m2(read: Metadata) -> Config:
    _all_routed(read)
    return {
        "model_type": "minimax_m2",
        "architectures": ["MiniMaxM2ForCausalLM"],
        "num_local_experts": read.count("expert_count"),
        "intermediate_size": _width(read),
        "rope_parameters": _partial_rope(read),
    }


_PLAIN = {**names.ATTENTION, **names.ROUTED}
_SHARED = {**_PLAIN, **names.DENSE, **names.SHARED, **names.CORRECTION}
_NO_FFN_NORM = {name: module for name, module in _SHARED.items() if name != "ffn_norm"}

ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen3moe": Architecture(_qwen3, _PLAIN),
    "qwen2moe": Architecture(_qwen2, {**_PLAIN, **names.GATED_SHARED}),
    "olmoe": Architecture(_olmoe, _PLAIN),
    "llama": Architecture(_mixtral, _PLAIN, _by_turns),
    "deepseek2": Architecture(_deepseek, {**_SHARED, **names.LATENT, **names.NEXT}),
    "dots1": Architecture(_dots1, _SHARED),
    "glm4moe": Architecture(
        _glm4, {**_NO_FFN_NORM, "post_attention_norm": "post_attention_layernorm", **names.NEXT}
    ),
    "minimax-m2": Architecture(_minimax_m2, {**_PLAIN, "exp_probs_b": "mlp.e_score_correction_bias"}),
}
"""By llama.cpp's name."""

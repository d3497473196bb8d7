"""The metadata of a GGUF from a config: what `model.gguf.architectures` reads, the other way round. No torch.

Source: `convert_hf_to_gguf.py` of llama.cpp, each model's `set_gguf_parameters`.
"""

from typing import Any

from locum.synth.gguf.header import Value
from locum.synth.given import number_of
from locum.synth.names import Config
from locum.synth.tokenizer import CHAT_TEMPLATE, Specials, tokenizer_document

ARCHITECTURES = {
    "olmoe": "olmoe",
    "qwen3_moe": "qwen3moe",
    "qwen2_moe": "qwen2moe",
    "mixtral": "llama",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "dots1": "dots1",
    "glm4_moe": "glm4moe",
    "minimax_m2": "minimax-m2",
}
"""llama.cpp's name of the architecture by `model_type`."""

CONTEXT = 4096
"""Tokens, of a config that does not say."""
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}
"""`llama_ftype` of llama.h."""
_SOFTMAX, _SIGMOID = 1, 2
_NORMAL, _CONTROL = 1, 3
_GROUPED = ("deepseek2", "dots1", "glm4moe")
_NAMED_WIDTH = (*_GROUPED, "qwen3moe", "qwen2moe", "minimax-m2")
_OWN_LENGTHS = ("deepseek2", "olmoe")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def fields_of(config: Config, kind: str) -> dict[str, Value]:
    """All metadata of a file whose matrices are of ggml's type `kind`, in the order written.

    Raises `CheckpointError` for a config that lacks a number, `UsageError` for too small a vocabulary.
    """
    architecture = ARCHITECTURES[config["model_type"]]
    general: dict[str, Value] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": f"locum synth {config['model_type']}",
        "general.quantization_version": 2,
        "general.file_type": _FILE_TYPES[kind],
    }
    found = {**_common(config), **_of_architecture(architecture, config)}
    return {
        **general,
        **{f"{architecture}.{key}": value for key, value in found.items()},
        **tokenizer_fields(number_of(config, "vocab_size")),
    }


def _common(config: Config) -> dict[str, Value]:
    rope = rope_of(config)
    found: dict[str, Value] = {
        "block_count": number_of(config, "num_hidden_layers"),
        "context_length": number_of(config, "max_position_embeddings", CONTEXT),
        "embedding_length": number_of(config, "hidden_size"),
        "feed_forward_length": number_of(config, "intermediate_size"),
        "attention.head_count": number_of(config, "num_attention_heads"),
        "attention.head_count_kv": number_of(config, "num_key_value_heads", config["num_attention_heads"]),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": number_of(config, "vocab_size"),
        "expert_count": next((config[key] for key in _EXPERTS if config.get(key)), 0),
        "expert_used_count": number_of(config, "num_experts_per_tok"),
    }
    if rope["rope_type"] in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        for key in ("beta_fast", "beta_slow"):
            if key in rope:
                found[f"rope.scaling.yarn_{key}"] = float(rope[key])
    return found


def rope_of(config: Config) -> dict[str, Any]:
    """The config's `rope_parameters` without what says nothing, also of one in the older form."""
    older = {"rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})}
    given = config.get("rope_parameters") or older
    found = {key: value for key, value in given.items() if value is not None and key != "type"}
    found["rope_type"] = given.get("rope_type", given.get("type", "default"))
    found.setdefault("rope_theta", 10000.0)
    if found["rope_type"] == "yarn":
        found.setdefault(
            "original_max_position_embeddings", number_of(config, "max_position_embeddings", CONTEXT)
        )
    if found.get("partial_rotary_factor") == 1:
        del found["partial_rotary_factor"]
    return found


def _of_architecture(architecture: str, config: Config) -> dict[str, Value]:
    """What some architectures have beside `_common`, and some instead."""
    found: dict[str, Value] = {}
    head = config.get("head_dim")
    if head and architecture not in _OWN_LENGTHS:
        found |= {"attention.key_length": head, "attention.value_length": head}
    if architecture in _NAMED_WIDTH:
        width = config.get("moe_intermediate_size") or config["intermediate_size"]
        found["expert_feed_forward_length"] = width
    if architecture == "qwen2moe":
        found["expert_shared_feed_forward_length"] = number_of(config, "shared_expert_intermediate_size")
    if architecture == "olmoe" and config.get("clip_qkv"):
        found["attention.clamp_kqv"] = float(config["clip_qkv"])
    if architecture in _GROUPED:
        found |= _grouped(config)
    if architecture == "deepseek2":
        found |= _latent(config)
    if architecture in ("glm4moe", "minimax-m2", "llama") and head:
        found["rope.dimension_count"] = int(head * rope_of(config).get("partial_rotary_factor", 1.0))
    if architecture == "minimax-m2":
        found["expert_gating_func"] = _SIGMOID
    return found


def _grouped(config: Config) -> dict[str, Value]:
    softmax = config["model_type"] == "deepseek_v2"
    return {
        "leading_dense_block_count": int(config.get("first_k_dense_replace") or 0),
        "expert_shared_count": int(config.get("n_shared_experts") or 0),
        "expert_group_count": int(config.get("n_group") or 1),
        "expert_group_used_count": int(config.get("topk_group") or 1),
        "expert_weights_scale": float(config.get("routed_scaling_factor") or 1.0),
        "expert_weights_norm": bool(config.get("norm_topk_prob")),
        "expert_gating_func": _SOFTMAX if softmax else _SIGMOID,
    }


def _latent(config: Config) -> dict[str, Value]:
    """Lengths as the keys and values are kept, in the latent space, with one head for all."""
    latent, rotary = number_of(config, "kv_lora_rank"), number_of(config, "qk_rope_head_dim")
    found: dict[str, Value] = {
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": latent,
        "attention.key_length": latent + rotary,
        "attention.value_length": latent,
        "attention.key_length_mla": number_of(config, "qk_nope_head_dim") + rotary,
        "attention.value_length_mla": number_of(config, "v_head_dim"),
        "rope.dimension_count": rotary,
    }
    if config.get("q_lora_rank"):
        found["attention.q_lora_rank"] = number_of(config, "q_lora_rank")
    scale = rope_of(config).get("mscale_all_dim")
    if scale:
        found["rope.scaling.yarn_log_multiplier"] = 0.1 * float(scale)
    return found


def tokenizer_fields(vocab_size: int) -> dict[str, Value]:
    """The tokenizer that `write_tokenizer` writes. Raises `UsageError` for too small a vocabulary."""
    document, specials = tokenizer_document(vocab_size), Specials()
    tokens = list(document["model"]["vocab"])
    control = {added["id"] for added in document["added_tokens"] if added["special"]}
    merges = document["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",  # llama.cpp's name of the split that ByteLevel makes
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_CONTROL if n in control else _NORMAL for n in range(len(tokens))],
        "tokenizer.ggml.merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": specials.bos,
        "tokenizer.ggml.eos_token_id": specials.eos,
        "tokenizer.ggml.eot_token_id": specials.bos,  # which ends a text, as generation_config.json says
        "tokenizer.ggml.padding_token_id": specials.pad,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }

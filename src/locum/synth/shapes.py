"""The shapes of known models: their `config.json`, and the tensors such a checkpoint holds. No torch."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from locum.errors import UnsupportedError, UsageError

Config = dict[str, Any]

_COMMON: Config = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.01,
    "tie_word_embeddings": False,
    "use_cache": True,
}

_OLMOE: Config = {
    **_COMMON,
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "clip_qkv": None,
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "vocab_size": 50304,
}

_QWEN3: Config = {
    **_COMMON,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

_SMALL: Config = {"max_position_embeddings": 1024, "num_attention_heads": 4}

SHAPES: dict[str, Config] = {
    "olmoe-1b-7b": _OLMOE,
    "qwen3-30b-a3b": _QWEN3,
    "tiny-olmoe": {
        **_OLMOE,
        **_SMALL,
        "hidden_size": 64,
        "intermediate_size": 32,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    "tiny-qwen3": {
        **_QWEN3,
        **_SMALL,
        "head_dim": 16,
        "hidden_size": 64,
        "intermediate_size": 96,
        "mlp_only_layers": [0],
        "moe_intermediate_size": 32,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    "demo": {
        **_OLMOE,
        **_SMALL,
        "hidden_size": 256,
        "intermediate_size": 128,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 8,
        "num_key_value_heads": 4,
        "vocab_size": 4096,
    },
}
"""`config.json` by name. The first two are real models to the last number; the others are small relatives."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a checkpoint: its Hugging Face name and shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def is_norm(self) -> bool:
        """A normalisation weight: its values lie about 1, not about 0."""
        return len(self.shape) == 1 and self.name.endswith("norm.weight")

    @property
    def is_expert(self) -> bool:
        """Belongs to a routed expert."""
        return ".experts." in self.name


def shape(name: str, **overrides: object) -> Config:
    """The `config.json` of a known shape, some of its fields replaced. Raises `UsageError`."""
    if name not in SHAPES:
        raise UsageError("unknown model shape", allowed=", ".join(SHAPES), got=repr(name))
    config = {**SHAPES[name]}
    unknown = sorted(set(overrides) - set(config))
    if unknown:
        raise UsageError("the shape has no such field", where=name, got=", ".join(unknown))
    return {**config, **overrides}


def _attention(config: Config, prefix: str, norms: tuple[int, int]) -> Iterator[TensorSpec]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    query, key_value = heads * width, config["num_key_value_heads"] * width
    yield TensorSpec(f"{prefix}.q_proj.weight", (query, hidden))
    yield TensorSpec(f"{prefix}.k_proj.weight", (key_value, hidden))
    yield TensorSpec(f"{prefix}.v_proj.weight", (key_value, hidden))
    yield TensorSpec(f"{prefix}.o_proj.weight", (hidden, query))
    yield TensorSpec(f"{prefix}.q_norm.weight", (norms[0],))
    yield TensorSpec(f"{prefix}.k_norm.weight", (norms[1],))


def _mlp(prefix: str, hidden: int, intermediate: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{prefix}.gate_proj.weight", (intermediate, hidden))
    yield TensorSpec(f"{prefix}.up_proj.weight", (intermediate, hidden))
    yield TensorSpec(f"{prefix}.down_proj.weight", (hidden, intermediate))


def _moe(config: Config, prefix: str, intermediate: int) -> Iterator[TensorSpec]:
    hidden = config["hidden_size"]
    yield TensorSpec(f"{prefix}.gate.weight", (config["num_experts"], hidden))
    for expert in range(config["num_experts"]):
        yield from _mlp(f"{prefix}.experts.{expert}", hidden, intermediate)


def _olmoe_layer(config: Config, layer: int) -> Iterator[TensorSpec]:
    prefix, hidden = f"model.layers.{layer}", config["hidden_size"]
    key_value = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield from _attention(config, f"{prefix}.self_attn", (hidden, key_value))
    yield from _moe(config, f"{prefix}.mlp", config["intermediate_size"])


def _qwen3_layer(config: Config, layer: int) -> Iterator[TensorSpec]:
    prefix, hidden = f"model.layers.{layer}", config["hidden_size"]
    yield from _attention(config, f"{prefix}.self_attn", (config["head_dim"], config["head_dim"]))
    sparse = (layer + 1) % config["decoder_sparse_step"] == 0 and layer not in config["mlp_only_layers"]
    if sparse and config["num_experts"] > 0:
        yield from _moe(config, f"{prefix}.mlp", config["moe_intermediate_size"])
    else:
        yield from _mlp(f"{prefix}.mlp", hidden, config["intermediate_size"])


_LAYERS: dict[str, Callable[[Config, int], Iterator[TensorSpec]]] = {
    "olmoe": _olmoe_layer,
    "qwen3_moe": _qwen3_layer,
}


def tensors(config: Config) -> Iterator[TensorSpec]:
    """Every tensor of a checkpoint with this config, in the order of the model's modules.

    Raises `UnsupportedError` for a family whose names are not known here.
    """
    family, hidden = config.get("model_type"), config["hidden_size"]
    if family not in _LAYERS:
        raise UnsupportedError(
            "no tensor names for this family", allowed=", ".join(_LAYERS), got=repr(family)
        )
    yield TensorSpec("model.embed_tokens.weight", (config["vocab_size"], hidden))
    for layer in range(config["num_hidden_layers"]):
        yield from _LAYERS[family](config, layer)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield TensorSpec(f"model.layers.{layer}.{norm}.weight", (hidden,))
    yield TensorSpec("model.norm.weight", (hidden,))
    if not config["tie_word_embeddings"]:
        yield TensorSpec("lm_head.weight", (config["vocab_size"], hidden))

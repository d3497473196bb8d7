"""The shapes of known models: their `config.json`. No torch."""

from pathlib import Path

from locum.errors import UnsupportedError, UsageError
from locum.model.config import EXPERTS
from locum.model.supported import CHECKED, UNSUPPORTED
from locum.synth.given import read_given
from locum.synth.names import FAMILIES, Config

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

_MIXTRAL: Config = {
    **_COMMON,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "vocab_size": 32000,
}

_DEEPSEEK_V2_LITE: Config = {
    **_COMMON,
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.0,
    "topk_group": 1,
    "topk_method": "greedy",
    "v_head_dim": 128,
    "vocab_size": 102400,
}

_GPT_OSS: Config = {
    **_COMMON,
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "rms_norm_eps": 1e-05,
    "rope_theta": 150000.0,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "vocab_size": 201088,
}

_SMALL: Config = {"max_position_embeddings": 1024, "num_attention_heads": 4}

SHAPES: dict[str, Config] = {
    "olmoe-1b-7b": _OLMOE,
    "qwen3-30b-a3b": _QWEN3,
    "mixtral-8x7b": _MIXTRAL,
    "deepseek-v2-lite": _DEEPSEEK_V2_LITE,
    "gpt-oss-20b": _GPT_OSS,
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
"""`config.json` by name. The first five are real models to the last number; the others are small relatives.

gpt-oss as it is once dequantised: the published files hold its experts as MXFP4.
"""


def shape(name: str, **overrides: object) -> Config:
    """The `config.json` of a known shape, some of its fields replaced. Raises `UsageError`."""
    if name not in SHAPES:
        raise UsageError("unknown model shape", allowed=", ".join(SHAPES), got=repr(name))
    config = {**SHAPES[name]}
    unknown = sorted(set(overrides) - set(config))
    if unknown:
        raise UsageError("the shape has no such field", where=name, got=", ".join(unknown))
    return {**config, **overrides}


def is_exact(config: Config) -> bool:
    """Whether `names` knows every tensor of this config: a family listed there, with no unlisted feature."""
    family = config.get("model_type")
    return family in FAMILIES and (family == "gpt_oss" or not config.get("attention_bias"))


def resolve_shape(what: str) -> Config:
    """The config of a known shape, of a `config.json`, or of the one in a model folder.

    What a file of a known shape's family leaves out is as in that shape. Raises `UsageError` for an unknown
    name, `UnsupportedError` for a family that locum does not run, `CheckpointError` for a config that cannot
    be read.
    """
    path = Path(what)
    path = path / "config.json" if path.is_dir() else path
    if what in SHAPES or not path.is_file():
        return shape(what)
    given = read_given(path)
    family = given.get("model_type")
    if family not in CHECKED:
        why = UNSUPPORTED.get(str(family))
        raise UnsupportedError(
            "a family that locum does not run" + (f": {why}" if why else ""),
            where=path,
            allowed=", ".join(sorted(CHECKED)),
            got=repr(family),
        )
    base = next((known for known in SHAPES.values() if known["model_type"] == family), {})
    return _over(base, given)


def _over(base: Config, given: Config) -> Config:
    """What is given, the rest as in `base`.

    The number of experts goes by the name that `base` has for it: transformers saves some under another.
    """
    merged = {**base, **given}
    name = next((key for key in EXPERTS if key in base), None)
    told = next((given[key] for key in EXPERTS if key in given), None)
    return merged if name is None or name in given or told is None else {**merged, name: told}

"""The architectures of GGUF files that locum reads: what each is to transformers, and its config.

A GGUF has no config.json: the metadata and the shapes of the tensors are the config. Source: llama.cpp's
`convert_hf_to_gguf.py`, whose metadata and changes to weights are undone here, and its `src/models`, for what
it takes for granted and writes nowhere; the config classes of transformers 5.23.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from locum.errors import UnsupportedError
from locum.model.gguf import configs, names, windowed
from locum.model.gguf.common import Config, by_turns, common
from locum.model.gguf.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Architecture:
    """What llama.cpp calls `general.architecture`."""

    config: Callable[[Metadata], Config]
    """What the family's config has beside that of `common`."""
    block: Mapping[str, str]
    """See `names.renamed`."""
    placements: Callable[[Metadata], Mapping[str, str]] = field(default=lambda read: {})
    """End of a parameter's name to the placement (`kernels.forms`) that undoes what llama.cpp did to it.

    First may be `joined`, see `model.schemes.gguf`.
    """
    whole: Mapping[str, str] = field(default_factory=lambda: names.WHOLE)
    """As `block`, of what is in no block."""


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
    config = {**common(read), **architecture.config(read)}
    config["quantization_config"] = {
        "quant_method": "gguf",
        "placements": dict(architecture.placements(read)),
    }
    return config, architecture


_PLAIN = {**names.ATTENTION, **names.ROUTED}
_SHARED = {**_PLAIN, **names.DENSE, **names.SHARED, **names.CORRECTION}
_NO_FFN_NORM = {name: module for name, module in _SHARED.items() if name != "ffn_norm"}
_GPT_OSS = {
    **_PLAIN,
    **names.POST_ATTENTION,
    "ffn_gate_inp": "mlp.router",
    "attn_sinks": "self_attn.sinks",
}
_TURNED = {  # as the converter writes what transformers keeps as [experts, in, out]
    "experts.gate_proj": "joined+woven+transposed",
    "experts.gate_proj_bias": "joined+woven",
    "experts.down_proj": "transposed",
}

ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen3moe": Architecture(configs.qwen3, _PLAIN),
    "qwen2moe": Architecture(configs.qwen2, {**_PLAIN, **names.GATED_SHARED}),
    "olmoe": Architecture(configs.olmoe, _PLAIN),
    "llama": Architecture(configs.mixtral, _PLAIN, by_turns),
    "deepseek2": Architecture(configs.deepseek, {**_SHARED, **names.LATENT, **names.NEXT}),
    "dots1": Architecture(configs.dots1, _SHARED),
    "glm4moe": Architecture(configs.glm4, {**_NO_FFN_NORM, **names.POST_ATTENTION, **names.NEXT}),
    "minimax-m2": Architecture(configs.minimax_m2, {**_PLAIN, "exp_probs_b": "mlp.e_score_correction_bias"}),
    "gpt-oss": Architecture(windowed.gpt_oss, _GPT_OSS, lambda read: _TURNED),
}
"""By llama.cpp's name."""

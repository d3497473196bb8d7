"""The architectures of GGUF files that locum reads: what each is to transformers, and its config.

A GGUF has no config.json: the metadata and the shapes of the tensors are the config. Source: llama.cpp's
`convert_hf_to_gguf.py`, whose metadata and changes to weights are undone here, and its `src/models`, for what
it takes for granted and writes nowhere; the config classes of transformers 5.23.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from locum.errors import UnsupportedError
from locum.model.gguf import blocks, configs, names, windowed
from locum.model.gguf.common import Config, by_turns, common
from locum.model.gguf.metadata import Metadata
from locum.model.gguf.refused import REFUSED

_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


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
    layers: str = "model.layers"
    """See `names.renamed`."""
    varied: bool = False
    """See `common`."""


def config_of(read: Metadata) -> tuple[Config, Architecture]:
    """(the config as config.json would have it, the row of the table) of a model with experts.

    Raises `UnsupportedError` for an architecture that is not in the table, `CheckpointError` for metadata
    that is missing or makes no sense.
    """
    architecture = ARCHITECTURES.get(read.architecture)
    if architecture is None:
        reason = REFUSED.get(read.architecture)
        raise UnsupportedError(
            f"locum does not read GGUF files of the architecture {read.architecture!r:.80}"
            + (f": {reason}" if reason else ""),
            where=read.where,
            allowed=", ".join(ARCHITECTURES),
            todo="Use the original checkpoint in safetensors: locum runs many more families from there",
        )
    factors = next((name for name in _FACTORS if name in read.tensors), None)
    if factors is not None:
        raise UnsupportedError(
            "positions are stretched by factors that only a tensor of the file holds",
            where=read.where,
            allowed="positions that the metadata describe",
            got=factors,
            todo="Use the original checkpoint in safetensors",
        )
    config = {**common(read, architecture.varied), **architecture.config(read)}
    config["quantization_config"] = {
        "quant_method": "gguf",
        "placements": dict(architecture.placements(read)),
    }
    return config, architecture


# as the converter writes what transformers keeps as [experts, in, out]
_TURNED = {"experts.gate_proj": "joined+transposed", "experts.down_proj": "transposed"}
_WOVEN = {
    **_TURNED,
    "experts.gate_proj": "joined+woven+transposed",
    "experts.gate_proj_bias": "joined+woven",
}
_SHARED_JOINED = {"shared_mlp.gate_proj.weight": "joined"}

ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen3moe": Architecture(configs.qwen3, blocks.PLAIN),
    "qwen2moe": Architecture(configs.qwen2, {**blocks.PLAIN, **names.GATED_SHARED}),
    "olmoe": Architecture(configs.olmoe, blocks.PLAIN),
    "llama": Architecture(configs.mixtral, blocks.PLAIN, by_turns),
    "deepseek2": Architecture(configs.deepseek, {**blocks.SHARED, **names.LATENT, **names.NEXT}),
    "dots1": Architecture(configs.dots1, blocks.SHARED),
    "glm4moe": Architecture(configs.glm4, {**blocks.NO_FFN_NORM, **names.POST_ATTENTION, **names.NEXT}),
    "minimax-m2": Architecture(
        configs.minimax_m2, {**blocks.PLAIN, "exp_probs_b": "mlp.e_score_correction_bias"}
    ),
    "gpt-oss": Architecture(windowed.gpt_oss, blocks.GPT_OSS, lambda read: _WOVEN),
    "granitemoe": Architecture(
        configs.granite, blocks.GRANITE, lambda read: {**by_turns(read), **_SHARED_JOINED}
    ),
    "qwen3vlmoe": Architecture(configs.qwen3, blocks.PLAIN),  # to text, its three axes are one
    "hunyuan-moe": Architecture(configs.hunyuan, blocks.HUNYUAN),
    "ernie4_5-moe": Architecture(configs.ernie, blocks.ERNIE),
    "lfm2moe": Architecture(windowed.lfm2, blocks.LFM2, whole=blocks.LFM2_WHOLE, varied=True),
    "afmoe": Architecture(windowed.afmoe, blocks.AFMOE),
    "exaone-moe": Architecture(windowed.exaone_moe, {**blocks.SHARED, **names.NEXT}),
    "mimo2": Architecture(windowed.mimo2, blocks.MIMO2, varied=True),
    "llama4": Architecture(windowed.llama4, blocks.LLAMA4, lambda read: _TURNED),
    "dbrx": Architecture(
        configs.dbrx,
        blocks.DBRX,
        lambda read: {"experts.mlp.w2": "transposed"},
        blocks.DBRX_WHOLE,
        layers="transformer.blocks",
    ),
    "glm-dsa": Architecture(configs.glm_dsa, blocks.GLM_DSA),
}
"""By llama.cpp's name."""

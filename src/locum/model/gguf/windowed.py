"""The configs of families whose layers differ: windows, chunks, layers without positions, convolutions."""

from collections.abc import Sequence

from locum.model.gguf.common import Config, all_routed, layers, rope, width
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

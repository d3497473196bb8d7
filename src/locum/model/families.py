"""The families locum runs, as facts: which layers are MoE, what an expert consists of, how the router works.

Source of each row: the family's `modeling_*.py` and `configuration_*.py` in transformers 5.23, and its entry
in `conversion_mapping.py` for the names in the files.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from locum.errors import CheckpointError
from locum.model.config import Reader
from locum.model.supported import CHECKED, UNSUPPORTED

QUANTIZATIONS: frozenset[str | None] = frozenset(
    {None, "fp8", "mxfp4", "compressed-tensors", "gptq", "awq", "gguf"}
)
"""The quantisations that locum runs, by the names of `quant.quantization_of`."""


def _every_layer(read: Reader, layers: int) -> list[int]:
    return list(range(layers))


def _after_dense(read: Reader, layers: int) -> list[int]:
    return list(range(read.count("first_k_dense_replace", least=0), layers))


def _every_nth(read: Reader, layers: int) -> list[int]:
    dense = read.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
        raise read.bad("mlp_only_layers", "a list of layers")
    step = read.count("decoder_sparse_step")
    return [layer for layer in range(layers) if layer not in dense and (layer + 1) % step == 0]


@dataclass(frozen=True, slots=True)
class Family:
    """What a family's files and config look like. Matrix names are those of the per-expert layout."""

    moe_layers: Callable[[Reader, int], list[int]]
    """(config, number of layers) to the MoE layers."""
    width: str
    """The config's key for an expert's intermediate size."""
    inner: tuple[str, str] = ("gate_proj", "up_proj")
    """The matrices [intermediate, hidden]."""
    outer: str = "down_proj"
    """The matrix [hidden, intermediate]."""
    transposed: bool = False
    """The fused layout is [experts, in, out] instead of [experts, out, in]."""
    biased: bool = False
    """The fused layout has biases."""
    router: str = "softmax"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the family's config class assumes where `config.json` leaves a key out."""


_SIGMOID: dict[str, Any] = {"width": "moe_intermediate_size", "router": "sigmoid+bias"}

FAMILIES: Mapping[str, Family] = {
    "qwen3_moe": Family(
        moe_layers=_every_nth,
        width="moe_intermediate_size",
        defaults={
            "decoder_sparse_step": 1,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_key_value_heads": 4,
            "use_sliding_window": False,
            "sliding_window": 4096,
        },
    ),
    "mixtral": Family(
        moe_layers=_every_layer,
        width="intermediate_size",
        inner=("w1", "w3"),
        outer="w2",
        defaults={"num_local_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 8},
    ),
    "olmoe": Family(
        moe_layers=_every_layer,
        width="intermediate_size",
        defaults={"num_experts": 64, "num_experts_per_tok": 8},
    ),
    "deepseek_v3": Family(
        moe_layers=_after_dense,
        **_SIGMOID,
        defaults={
            "first_k_dense_replace": 3,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "n_group": 8,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "num_key_value_heads": 128,
        },
    ),
    "glm4_moe": Family(
        moe_layers=_after_dense,
        **_SIGMOID,
        defaults={
            "first_k_dense_replace": 1,
            "n_routed_experts": 128,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "n_group": 1,
            "num_key_value_heads": 8,
        },
    ),
    "gpt_oss": Family(
        moe_layers=_every_layer,
        width="intermediate_size",
        transposed=True,
        biased=True,
        router="softmax-after-topk",
        defaults={
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
        },
    ),
}
"""The families that locum runs, by `model_type`."""


def unrunnable(read: Reader, quantization: str | None) -> str | None:
    """Why locum does not run this checkpoint, in one clause; None when it does."""
    named = read.whole.get("model_type")
    kind = named if isinstance(named, str) else "(none)"
    if kind not in CHECKED:
        near = difflib.get_close_matches(kind, sorted(CHECKED), n=1)
        known = f"it runs {len(CHECKED)} families" + (f", the nearest by name is {near[0]}" if near else "")
        if "auto_map" in read.whole:
            return (
                f"{kind} is defined by code that comes with the checkpoint, which locum does not run (it "
                f"would be anybody's code, and its experts have no common interface); {known}"
            )
        if kind in UNSUPPORTED:
            return f"locum does not run {kind}: {UNSUPPORTED[kind]}"
        return f"no adapter for {kind} has been checked against transformers; {known}"
    if quantization not in QUANTIZATIONS:
        names = ", ".join(sorted(name or "unquantised" for name in QUANTIZATIONS))
        return f"the experts are stored as {quantization}; locum reads {names} experts"
    return None


def family_of(read: Reader) -> Family | None:
    """The row of the table for this config; None where it has none or is only part of a composite."""
    kind = read.name("model_type")
    return None if read.composite or kind is None else FAMILIES.get(kind)


def expected_layers(read: Reader, family: Family, layers: int) -> tuple[int, ...]:
    """The MoE layers that the config asks for."""
    found = family.moe_layers(read, layers)
    if found and not 0 <= found[0] <= found[-1] < layers:
        raise CheckpointError("MoE layers outside the model", where=read.path, got=found)
    return tuple(found)

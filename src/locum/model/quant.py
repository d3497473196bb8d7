"""How the weights are stored: which quantisation, and how many parameters a stored tensor stands for."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from locum.model.header import TensorInfo

FP8_DTYPES = ("F8_E4M3", "F8_E5M2")
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Stored dtypes that need no dequantisation, and torch's names for them."""
DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

# Scales, zero points and other side information: bytes on disk, but no parameters of the model.
_SIDE = re.compile(
    r"(\.|_)(scale|scales|scale_inv|scale_2|weight_scale|input_scale|qzeros|g_idx|zero_point|global_scale"
    r"|weight_shape|absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)$"
)


def quantization_of(config: Mapping[str, Any], expert_dtypes: Iterable[str]) -> str | None:
    """The quantisation's name: what the config declares, else what the experts' dtypes betray, else None.

    Undeclared ones are named after the dtype (`undeclared F8_E4M3`): nobody says how to read them.
    """
    declared = config.get("quantization_config") or config.get("compression_config")
    if isinstance(declared, dict):
        method = declared.get("quant_method")
        if isinstance(method, str) and method:
            return method.lower()
        if declared.get("load_in_4bit") or declared.get("load_in_8bit"):
            return "bitsandbytes"
        return "unnamed"
    odd = sorted(set(expert_dtypes) - FLOATS.keys())
    return f"undeclared {odd[0]}" if odd else None


def block_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """(rows, columns) that share one scale of an FP8 block-scaled checkpoint, None where not declared."""
    declared = config.get("quantization_config")
    block = declared.get("weight_block_size") if isinstance(declared, dict) else None
    if isinstance(block, list) and len(block) == 2 and all(type(side) is int and side > 0 for side in block):
        return block[0], block[1]
    return None


def packed_bits(config: Mapping[str, Any]) -> int:
    """Bits per weight inside packed integer tensors (GPTQ, AWQ, compressed-tensors); 4 where not declared."""
    declared = config.get("quantization_config") or config.get("compression_config") or {}
    groups = declared.get("config_groups") if isinstance(declared, dict) else None
    found = [declared.get("bits")] if isinstance(declared, dict) else []
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        found.append(weights.get("num_bits") if isinstance(weights, dict) else None)
    return next((bits for bits in found if type(bits) is int and 1 <= bits <= 8), 4)


def parameters(name: str, info: TensorInfo, quantization: str | None, bits: int) -> int:
    """How many parameters of the model a stored tensor stands for: 0 for scales, two per byte of MXFP4.

    `bits` is `packed_bits(config)`.
    """
    elements = math.prod(info.shape)
    if quantization is None:
        return elements
    if _SIDE.search(name):
        return 0
    if info.dtype in ("U8", "I8") and (name.endswith("_blocks") or quantization == "bitsandbytes"):
        return 2 * elements
    if info.dtype in ("I32", "U32") and (name.endswith(("qweight", "weight_packed"))):
        return elements * (32 // bits)
    return elements

"""compressed-tensors, `pack-quantized`: integers of few bits in 32-bit words, along the inputs.

`X.weight_packed` [O, I * bits / 32], `X.weight_scale` [O, groups], and where they are not symmetric
`X.weight_zero_point`, packed along the outputs. Source: compressed-tensors 0.20, `pack_quantized`.
"""

import re
from typing import Any

from locum.errors import CheckpointError, UnsupportedError
from locum.model.quant import FLOATS
from locum.model.schemes.base import Declared, Scheme, Stored, Tensors
from locum.model.schemes.pieces import piece, require

BITS = (4, 8)
_WORD = 32


def _read(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    codes, scales = tensors[name], piece(tensors, f"{base}_scale", name)
    require(codes, name, ("I32",))
    args = _arguments(base.removesuffix(".weight"), declared)
    bits = args.get("num_bits")
    if args.get("type", "int") != "int" or bits not in BITS:
        raise UnsupportedError(
            "packed weights of a kind that locum does not read",
            where=name,
            allowed="integers of 4 or 8 bits",
            got=f"{args.get('type', 'int')} of {bits} bits",
        )
    if len(codes.shape) < 2 or len(scales.shape) != len(codes.shape):
        raise CheckpointError(f"tensor {name!r} has an impossible shape", got=list(codes.shape))
    rows, columns = codes.shape[-2], codes.shape[-1] * _WORD // bits
    require(scales, f"{base}_scale", tuple(FLOATS), (*codes.shape[:-1], scales.shape[-1]))
    pieces = [("codes", codes), ("scales", scales)]
    if (zeros := tensors.get(f"{base}_zero_point")) is not None:
        packed = (*codes.shape[:-2], -(-rows * bits // _WORD), scales.shape[-1])
        wanted = packed if zeros.dtype == "I32" else scales.shape
        require(zeros, f"{base}_zero_point", ("I32", "I8"), wanted)
        pieces.append(("zeros", zeros))
    if (order := tensors.get(f"{base}_g_idx")) is not None:
        require(order, f"{base}_g_idx", ("I32", "I64"), (columns,))
        pieces.append(("order", order))
    elif not scales.shape[-1] or columns % scales.shape[-1]:
        raise CheckpointError(f"{base}_scale does not divide {columns} inputs", got=list(scales.shape))
    return Stored(base, (*codes.shape[:-1], columns), f"packed-{bits}", tuple(pieces))


def _arguments(module: str, declared: Declared) -> dict[str, Any]:
    """The quantisation of a module's weights: the group that names it, else the first that names a class."""
    groups = declared.get("config_groups")
    listed = (
        [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    )
    fallback: dict[str, Any] = {}
    for group in listed:
        weights = group.get("weights")
        targets = group.get("targets")
        if not isinstance(weights, dict) or not isinstance(targets, list):
            continue
        for target in map(str, targets):
            if target == module or (target.startswith("re:") and _found(target[3:], module)):
                return weights
            if not target.startswith("re:"):
                fallback = fallback or weights
    return fallback


def _found(pattern: str, module: str) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False


SCHEME = Scheme(
    main=".weight_packed",
    base=".weight",
    read=_read,
    sides=(".weight_scale", ".weight_zero_point", ".weight_g_idx", ".weight_shape"),
)

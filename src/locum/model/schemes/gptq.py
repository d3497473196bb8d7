"""GPTQ: integers of few bits in 32-bit words along the inputs, a scale and a zero point per group and output.

`X.qweight` [I * bits / 32, O], `X.qzeros` [groups, O * bits / 32], `X.scales` [groups, O], `X.g_idx` [I] the
group of each input. Files of the first version (nearly all) store zero points less one. Source: GPTQModel
7.7.
"""

from locum.errors import CheckpointError, UnsupportedError
from locum.model.quant import FLOATS
from locum.model.schemes.base import Declared, Scheme, Stored, Tensors
from locum.model.schemes.pieces import piece, require

BITS = (2, 4, 8)
FORMATS = ("gptq", "gptq_v2")
_WORD = 32


def _read(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    stem, bits = name.removesuffix(".qweight"), declared.get("bits")
    packing = declared.get("checkpoint_format") or FORMATS[0]
    if packing not in FORMATS:
        raise UnsupportedError(
            "GPTQ weights in a packing that locum does not read", where=name, allowed=FORMATS, got=packing
        )
    if type(bits) is not int or bits not in BITS:
        raise UnsupportedError(
            "GPTQ weights of a width that locum does not read", where=name, allowed=list(BITS), got=bits
        )
    codes = tensors[name]
    zeros, scales = (piece(tensors, f"{stem}.{side}", name) for side in ("qzeros", "scales"))
    if len(codes.shape) != 2 or len(scales.shape) != 2:
        raise CheckpointError(f"tensor {name!r} has an impossible shape", got=list(codes.shape))
    inputs, (groups, outputs) = codes.shape[0] * _WORD // bits, scales.shape
    require(codes, name, ("I32",), (codes.shape[0], outputs))
    require(scales, f"{stem}.scales", tuple(FLOATS))
    require(zeros, f"{stem}.qzeros", ("I32",), (groups, -(-outputs * bits // _WORD)))
    pieces = [("codes", codes), ("zeros", zeros), ("scales", scales)]
    if (order := tensors.get(f"{stem}.g_idx")) is not None:
        require(order, f"{stem}.g_idx", ("I32",), (inputs,))
        pieces.append(("order", order))
    if not groups or (order is None and inputs % groups):
        raise CheckpointError(f"{stem}.scales does not divide {inputs} inputs", got=list(scales.shape))
    return Stored(base, (outputs, inputs), f"gptq{1 + FORMATS.index(packing)}-{bits}", tuple(pieces))


def _matches(name: str, tensors: Tensors, declared: Declared) -> bool:
    return str(declared.get("quant_method", "")).lower() == "gptq"


SCHEME = Scheme(
    main=".qweight",
    base=".weight",
    read=_read,
    sides=(".qzeros", ".scales", ".g_idx"),
    matches=_matches,
)

"""AWQ (`gemm`): integers of four bits in 32-bit words along the outputs, in an order of their own.

`X.qweight` [I, O / 8], `X.qzeros` [groups, O / 8], `X.scales` [groups, O]. Source: AutoAWQ's packing as
GPTQModel 7.7 reads it.
"""

from locum.errors import CheckpointError, UnsupportedError
from locum.model.quant import FLOATS
from locum.model.schemes.base import Declared, Scheme, Stored, Tensors
from locum.model.schemes.pieces import piece, require

_PER_WORD = 8


def _read(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    version, bits = str(declared.get("version", "gemm")).lower(), declared.get("bits", 4)
    if version != "gemm" or bits != 4:
        raise UnsupportedError(
            "AWQ weights of a variant that locum does not read",
            where=name,
            allowed="version gemm with 4 bits",
            got=f"version {version} with {bits} bits",
        )
    stem, codes = name.removesuffix(".qweight"), tensors[name]
    zeros, scales = (piece(tensors, f"{stem}.{side}", name) for side in ("qzeros", "scales"))
    if len(codes.shape) != 2 or len(scales.shape) != 2:
        raise CheckpointError(f"tensor {name!r} has an impossible shape", got=list(codes.shape))
    inputs, (groups, outputs) = codes.shape[0], scales.shape
    require(codes, name, ("I32",), (inputs, outputs // _PER_WORD))
    require(zeros, f"{stem}.qzeros", ("I32",), (groups, outputs // _PER_WORD))
    require(scales, f"{stem}.scales", tuple(FLOATS))
    if not groups or inputs % groups or outputs % _PER_WORD:
        raise CheckpointError(f"{stem}.scales does not divide {inputs} inputs", got=list(scales.shape))
    return Stored(base, (outputs, inputs), "awq", (("codes", codes), ("zeros", zeros), ("scales", scales)))


def _matches(name: str, tensors: Tensors, declared: Declared) -> bool:
    return str(declared.get("quant_method", "")).lower() == "awq"


SCHEME = Scheme(main=".qweight", base=".weight", read=_read, sides=(".qzeros", ".scales"), matches=_matches)

"""locum's own groups of small integers (`kernels.quantise`): the backbone of a packed folder.

`X.codes` [O, I] (8 bits) or [O, I / 2] (4 bits, two in a byte) and `X.scales` [O, groups].
"""

from locum.errors import CheckpointError
from locum.model.quant import FLOATS
from locum.model.schemes.base import Declared, Scheme, Stored, Tensors
from locum.model.schemes.pieces import piece, require


def _read(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    codes, scales = tensors[name], piece(tensors, f"{base}.scales", name)
    require(codes, name, ("I8", "U8"))
    require(scales, f"{base}.scales", tuple(FLOATS))
    bits = 8 if codes.dtype == "I8" else 4
    if len(codes.shape) != 2 or len(scales.shape) != 2 or scales.shape[0] != codes.shape[0]:
        raise CheckpointError(f"tensor {name!r} has an impossible shape", got=list(codes.shape))
    rows, columns = codes.shape[0], codes.shape[1] * 8 // bits
    if not scales.shape[1] or columns % scales.shape[1]:
        raise CheckpointError(f"{base}.scales does not divide {columns} inputs", got=list(scales.shape))
    form = f"int{bits}-g{columns // scales.shape[1]}"
    return Stored(base, (rows, columns), form, (("codes", codes), ("scales", scales)))


def _matches(name: str, tensors: Tensors, declared: Declared) -> bool:
    return not declared  # other people's quantisation may use the same names


SCHEME = Scheme(main=".codes", base="", read=_read, sides=(".scales",), matches=_matches)

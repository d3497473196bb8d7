"""MXFP4 (gpt-oss): 4-bit floats by 32 with one power of two. OCP Microscaling, v1.0.

`X_blocks` [E, O, I / 32, 16] and `X_scales` [E, O, I / 32]: transposed to what the model calls X, [E, I, O].
"""

from locum.model.schemes.base import Declared, Scheme, Stored, Tensors
from locum.model.schemes.pieces import piece, require

_BYTES = 16


def _matches(name: str, tensors: Tensors, declared: Declared) -> bool:
    return f"{name.removesuffix('_blocks')}_scales" in tensors


def _read(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    blocks, scales = tensors[name], piece(tensors, f"{base}_scales", name)
    require(blocks, name, ("U8",), (*scales.shape, _BYTES))
    require(scales, f"{base}_scales", ("U8",))
    *many, rows, groups = scales.shape
    shape = (*many, 2 * _BYTES * groups, rows)
    return Stored(base, shape, "mxfp4+transposed", (("codes", blocks), ("scales", scales)))


SCHEME = Scheme(main="_blocks", base="", read=_read, sides=("_scales",), matches=_matches)

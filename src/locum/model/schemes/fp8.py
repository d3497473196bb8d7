"""FP8 with one scale per block (DeepSeek-V3 and all that follow it), and FP4 in the same clothes.

`X.weight` in 8-bit floats and `X.weight_scale_inv`, one number per block of rows and columns. Where the
weight is of 8-bit integers, each holds two 4-bit floats (DeepSeek-V4's experts). Source: transformers 5.23,
`integrations/finegrained_fp8.py`.

compressed-tensors (`float-quantized`) and AutoFP8 call the scales `X.weight_scale`: one for all, one per
output, or one per block.
"""

from functools import partial

from locum.errors import CheckpointError
from locum.model.header import TensorInfo
from locum.model.quant import FLOATS, FP8_DTYPES
from locum.model.schemes.base import Declared, Scheme, Stored, Tensors
from locum.model.schemes.groups import weights_of

_SCALES = (*FLOATS, "F8_E8M0", "U8")
_FP4 = ("I8",)


def _matches(name: str, tensors: Tensors, declared: Declared) -> bool:
    return f"{name}_scale_inv" in tensors


def _has_scale(name: str, tensors: Tensors, declared: Declared) -> bool:
    return f"{name}_scale" in tensors and tensors[name].dtype in FP8_DTYPES


def _read(name: str, base: str, tensors: Tensors, declared: Declared, *, suffix: str) -> Stored:
    codes, scales = tensors[name], tensors[name + suffix]
    if codes.dtype not in (*FP8_DTYPES, *_FP4) or scales.dtype not in _SCALES or len(codes.shape) < 2:
        raise _misfit(name, codes, scales)
    wide = 2 if codes.dtype in _FP4 else 1
    shape = (*codes.shape[:-1], wide * codes.shape[-1])
    grid = _grid(shape, scales.shape)
    block = _block(shape, grid, _declared_block(base, declared))
    if block is None or grid[:-2] != shape[:-2]:
        raise _misfit(name, codes, scales)
    kind = "fp4" if codes.dtype in _FP4 else "fp8"
    return Stored(base, shape, f"{kind}-{block[0]}x{block[1]}", (("codes", codes), ("scales", scales)))


def _grid(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, ...]:
    """How many scales down and across: as they lie; [] and [1] are one for all, [rows] is one for each."""
    few = {(): (1, 1), (1,): (1, 1), shape[:1]: (shape[0], 1)} if len(shape) == 2 else {}
    return few.get(scales, scales)


def _declared_block(base: str, declared: Declared) -> tuple[int, int] | None:
    """Rows and columns of a block as the config has them, None where it has none."""
    block = declared.get("weight_block_size")
    if block is None:
        block = weights_of(base.removesuffix(".weight"), declared).get("block_structure")
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2 or not all(type(s) is int and s > 0 for s in block):
        raise CheckpointError(
            "a block of scales that cannot be", where=base, allowed="two whole numbers above 0", got=block
        )
    return block[0], block[1]


def _block(
    shape: tuple[int, ...], grid: tuple[int, ...], block: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Rows and columns that share a scale: as declared, the edges ragged, else as the shapes say.

    The declared block does not hold for all: DeepSeek-V4 keeps experts by 1 x 32 beside layers by 128 x 128.
    """
    if len(grid) < 2:
        return None
    (rows, columns), (down, across) = shape[-2:], grid[-2:]
    if block is not None and (-(-rows // block[0]), -(-columns // block[1])) == (down, across):
        return block
    if not down or not across or rows % down or columns % across:
        return None
    found = rows // down, columns // across
    return found if block is None or found[0] == 1 or found == (rows, columns) else None


def _misfit(name: str, codes: TensorInfo, scales: TensorInfo) -> CheckpointError:
    return CheckpointError(
        f"tensor {name!r} and its scales do not fit each other",
        where=codes.file,
        allowed="8-bit floats, and one scale per block of them",
        got=f"{codes.dtype} {list(codes.shape)} and {scales.dtype} {list(scales.shape)}",
    )


SCHEME = Scheme(
    main="",
    base="",
    read=partial(_read, suffix="_scale_inv"),
    sides=("_scale_inv", "_activation_scale"),
    matches=_matches,
)
SCALED = Scheme(
    main=".weight",
    base=".weight",
    read=partial(_read, suffix="_scale"),
    sides=(".weight_scale", ".input_scale"),  # that of activations, which stay floats here
    matches=_has_scale,
)

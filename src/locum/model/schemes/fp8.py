"""FP8 with one scale per block (DeepSeek-V3 and all that follow it), and FP4 in the same clothes.

`X.weight` in 8-bit floats and `X.weight_scale_inv`, one number per block of rows and columns. Where the
weight is of 8-bit integers, each holds two 4-bit floats (DeepSeek-V4's experts). Source: transformers 5.23,
`integrations/finegrained_fp8.py`.
"""

from locum.errors import CheckpointError
from locum.model.header import TensorInfo
from locum.model.quant import FLOATS, FP8_DTYPES, block_size
from locum.model.schemes.base import Declared, Scheme, Stored, Tensors

_SCALES = (*FLOATS, "F8_E8M0", "U8")
_FP4 = ("I8",)


def _matches(name: str, tensors: Tensors, declared: Declared) -> bool:
    return f"{name}_scale_inv" in tensors


def _read(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    codes, scales = tensors[name], tensors[f"{name}_scale_inv"]
    if codes.dtype not in (*FP8_DTYPES, *_FP4) or scales.dtype not in _SCALES or len(codes.shape) < 2:
        raise _misfit(name, codes, scales)
    wide = 2 if codes.dtype in _FP4 else 1
    shape = (*codes.shape[:-1], wide * codes.shape[-1])
    grid = scales.shape if len(scales.shape) >= 2 else (*shape[:-2], 1, 1)
    block = _block(shape, grid, declared)
    if block is None or grid[:-2] != shape[:-2] or (len(scales.shape) < 2 and len(shape) > 2):
        raise _misfit(name, codes, scales)
    kind = "fp4" if codes.dtype in _FP4 else "fp8"
    return Stored(base, shape, f"{kind}-{block[0]}x{block[1]}", (("codes", codes), ("scales", scales)))


def _block(shape: tuple[int, ...], grid: tuple[int, ...], declared: Declared) -> tuple[int, int] | None:
    """Rows and columns that share a scale: as declared, the edges ragged, else as the shapes say.

    The declared block does not hold for all: DeepSeek-V4 keeps experts by 1 x 32 beside layers by 128 x 128.
    """
    (rows, columns), (down, across) = shape[-2:], grid[-2:]
    block = block_size({"quantization_config": declared})
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


SCHEME = Scheme(main="", base="", read=_read, sides=("_scale_inv", "_activation_scale"), matches=_matches)

"""Which alignment expert weights need so that torch's products keep their bits.

torch's own allocator aligns to 64 bytes, files to 8. Some products come out with other last bits when a
weight is not aligned (float32 with one row, measured), others never do (bfloat16: none in 8,300 products of
random shapes). Where bits do not depend on it, experts are computed on where they land, and the copy that
would align them is saved. So this is asked of the machine, for the very shapes at hand.

Axes: N rows of the input, O and I the two sides of a weight.
"""

import ctypes
import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor

ALLOCATOR_ALIGN = 64
"""What torch's allocator gives."""
FILE_ALIGN = 8
"""What a safetensors header is padded to."""
_ROWS = (1, 2, 3, 5, 8, 16, 33, 128)
_OFFSETS = (8, 24, 40, 56)


def needed_alignment(
    shapes: Iterable[tuple[int, ...]], dtype: torch.dtype, *, transposed: bool, threads: Iterable[int]
) -> int:
    """8 when products with weights of these `shapes` have the same bits at any multiple of 8 bytes, else 64.

    `transposed` as on the experts module: `x @ w` instead of `F.linear(x, w)`. Tried with each number of
    `threads`; torch's own number is put back.
    """
    before = torch.get_num_threads()
    matrices = sorted({shape for shape in shapes if len(shape) == 2})
    try:
        for count in sorted(set(threads)):
            torch.set_num_threads(count)
            if not all(_bits_stay(shape, dtype, transposed) for shape in matrices):
                return ALLOCATOR_ALIGN
    finally:
        torch.set_num_threads(before)
    return FILE_ALIGN


@torch.inference_mode()
def _bits_stay(shape: Sequence[int], dtype: torch.dtype, transposed: bool) -> bool:
    """Takes as much memory as one such weight: an expert's may be a good part of what there is."""
    random = torch.Generator().manual_seed(0)
    room = torch.empty(math.prod(shape) + 2 * ALLOCATOR_ALIGN // dtype.itemsize, dtype=dtype)
    weight = _at_offset(room, 0, shape).normal_(generator=random)
    width = shape[0] if transposed else shape[1]
    inputs = [torch.randn(rows, width, generator=random).to(dtype) for rows in _ROWS]
    expected = [_product(x_NI, weight, transposed) for x_NI in inputs]
    for offset in _OFFSETS:
        before, weight = weight, _at_offset(room, offset, shape)
        ctypes.memmove(weight.data_ptr(), before.data_ptr(), weight.nbytes)  # they overlap
        for x_NI, right in zip(inputs, expected, strict=True):
            if not torch.equal(_product(x_NI, weight, transposed), right):
                return False
    return True


def _product(x_NI: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    return x_NI @ weight if transposed else F.linear(x_NI, weight)


def _at_offset(room: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    """The part of `room` whose address is `offset` bytes beyond a multiple of 64."""
    size = room.element_size()
    start = (-(room.data_ptr() // size)) % (ALLOCATOR_ALIGN // size) + offset // size
    part = room[start : start + math.prod(shape)].view(*shape)
    assert part.data_ptr() % ALLOCATOR_ALIGN == offset, "it is not where it should be"
    return part

"""What the native functions compute, in numpy: slow, plain, and equal bit for bit.

Axes: O outputs, I inputs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SMALLEST = np.float32(2.0**-126)
"""The smallest normal float32."""


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The values of bfloat16 numbers given as 16-bit words."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bfloat16, ties to even, as 16-bit words. Subnormal numbers become zeros, NaN stays NaN."""
    bits = _flush(values).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), (bits >> 16 | 0x40).astype(np.uint16), rounded)


def linear_bf16(
    w_OI: NDArray[np.uint16], x_I: NDArray[np.uint16], block: int, span: int
) -> NDArray[np.uint16]:
    """`w_OI @ x_I` in bfloat16 words, [O], as VDPBF16PS adds up.

    In float32: each step adds the products of two inputs, the second of the pair first, each addition rounded
    to nearest even, subnormal numbers taken and given as zeros. After `block` inputs a new chain begins;
    `span` chains are added up in order, and then these sums.
    """
    w, x = _flush(from_bf16(w_OI)), _flush(from_bf16(x_I))
    if w.shape[1] % 2:
        w, x = np.pad(w, ((0, 0), (0, 1))), np.pad(x, (0, 1))
    chains = []
    with np.errstate(all="ignore"):
        for begin in range(0, w.shape[1], block):
            chain = np.zeros(len(w), np.float32)
            for i in range(begin, min(begin + block, w.shape[1]), 2):
                chain = _step(_step(chain, w[:, i + 1], x[i + 1]), w[:, i], x[i])
            chains.append(chain)
        sums = [_sum(chains[begin : begin + span]) for begin in range(0, len(chains), span)]
        return to_bf16(_sum(sums))


def _sum(terms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _step(total: NDArray[np.float32], w: NDArray[np.float32], x: np.float32) -> NDArray[np.float32]:
    """total + w * x rounded once: the product of two bfloat16 and its sum with a float32 are exact enough in
    float64 that rounding it again makes no difference, short of ties that a test looks for.
    """
    return _flush((total.astype(np.float64) + w.astype(np.float64) * np.float64(x)).astype(np.float32))


def _flush(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subnormal numbers as zeros of their sign."""
    return np.where(np.abs(values) < _SMALLEST, np.copysign(np.float32(0), values), values)

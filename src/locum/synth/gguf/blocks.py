"""Numbers to the bytes that ggml keeps them in. No torch.

Source: ggml's `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref` (`ggml-quants.c`) and
`ggml_compute_fp32_to_bf16` (`ggml-impl.h`), in the order of operations of the `gguf` package's numpy, whose
bits these are.

Axes: B blocks of 32 numbers.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from locum.synth.noise import Dtype

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
BLOCK = 32
_AT_ONCE = 1 << 16
"""Numbers quantised at a time, so that what lies between stays in the processor's cache."""


def numbers(stored: Bytes, dtype: Dtype) -> Floats:
    """The numbers [n] in the bytes of a checkpoint's BF16 or F32 tensor."""
    if dtype.code == "F32":
        return stored.view("<f4")
    return (stored.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def encoded(stored: Bytes, dtype: Dtype, kind: str) -> Bytes:
    """The bytes of a checkpoint's tensor, or of whole rows of it, as ggml's type `kind`.

    `stored`: in the checkpoint's `dtype`, finite. For Q8_0 and Q4_0 a multiple of 32 numbers.
    """
    if kind == dtype.code:
        return stored
    values, encode = numbers(stored, dtype), ENCODERS[kind]
    if kind in ("F32", "F16"):
        return encode(values)
    return np.concatenate([encode(values[at : at + _AT_ONCE]) for at in range(0, len(values), _AT_ONCE)])


def _f32(values: Floats) -> Bytes:
    return np.ascontiguousarray(values, "<f4").view(np.uint8)


def _f16(values: Floats) -> Bytes:
    return values.astype("<f2").view(np.uint8)


def _bf16(values: Floats) -> Bytes:
    """To the nearest, to the even one of two as near. No number here is large enough to overflow."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2").view(np.uint8)


def _inverse(scale: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def q8_0(values: Floats) -> Bytes:
    """Blocks of a float16 scale, the largest of 32 over 127, and 32 signed bytes; halves go away from 0."""
    values_B32 = values.reshape(-1, BLOCK)
    scale = np.abs(values_B32).max(axis=1, keepdims=True) / np.float32(127)
    scaled = values_B32 * _inverse(scale)
    size = np.abs(scaled)
    whole = np.floor(size)
    whole += np.floor((size - whole) * np.float32(2))
    blocks = np.empty((len(values_B32), 2 + BLOCK), np.uint8)
    blocks[:, :2] = scale.astype("<f2").view(np.uint8)
    blocks[:, 2:] = np.copysign(whole, scaled).astype(np.int8).view(np.uint8)
    return blocks.reshape(-1)


def q4_0(values: Floats) -> Bytes:
    """Blocks of a float16 scale, the number of largest size over -8, and 32 nibbles: number j of the first
    half of a block below number j of the second.
    """
    values_B32 = values.reshape(-1, BLOCK)
    place = np.abs(values_B32).argmax(axis=1)[:, None]
    scale = np.take_along_axis(values_B32, place, axis=1) / np.float32(-8)
    scaled = values_B32 * _inverse(scale) + np.float32(8.5)
    codes = np.minimum(scaled.astype(np.uint8), np.uint8(15))
    blocks = np.empty((len(values_B32), 2 + BLOCK // 2), np.uint8)
    blocks[:, :2] = scale.astype("<f2").view(np.uint8)
    blocks[:, 2:] = codes[:, : BLOCK // 2] | (codes[:, BLOCK // 2 :] << np.uint8(4))
    return blocks.reshape(-1)


ENCODERS: Mapping[str, Callable[[Floats], Bytes]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q8_0": q8_0,
    "Q4_0": q4_0,
}
"""By ggml's name of the type: from numbers [n], finite, to bytes."""

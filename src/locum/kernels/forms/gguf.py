"""Numbers in ggml's blocks. The product is taken in float32, as llama.cpp's and transformers' own readers do.

Source: ggml's `ggml-quants.c`; for most types transformers 5.23 has it in torch
(`integrations/gguf/dequant.py`, Apache-2.0), the rest is written here.

Axes: B blocks.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from transformers.integrations.gguf import dequant

from locum.kernels.forms.base import WHOLE, Make

_NUMBERS = {name: number for number, name in dequant.GGML_NAME.items()}


def make(method: str, numbers: str) -> Make:
    """`numbers`: ggml's name of the type; of two pieces those of both, the first with an x after it."""
    if method == "gguf":
        return lambda pieces, shape, rows: _floats(pieces["blocks"][rows], numbers)
    keys_type, _, values_type = numbers.partition("x")

    def joined(pieces: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice) -> Tensor:
        first, second = pieces["first"], pieces["second"]
        if rows != WHOLE:
            half = len(first)
            first, second = first[rows], second[max(0, rows.start - half) : max(0, rows.stop - half)]
        parts = (first, keys_type), (second, values_type)
        return torch.cat([_floats(part, kind) for part, kind in parts if len(part)])

    def latent(pieces: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice) -> Tensor:
        """DeepSeek's `kv_b_proj`: of each head first the keys' rows, then the values'."""
        keys = _floats(pieces["keys"], keys_type).transpose(1, 2)
        values = _floats(pieces["values"], values_type)
        return torch.cat((keys, values), 1).view(shape)[rows]

    return joined if method == "gguf_joined" else latent


def _floats(stored: Tensor, kind: str) -> Tensor:
    """[..., bytes of a row] or floats as they are, to [..., numbers of a row] in float32."""
    if stored.dtype != torch.uint8:
        return stored.float()
    flat = stored.reshape(-1)
    if kind in _OURS:
        size, ours = _OURS[kind]
        found = ours(flat.view(-1, size))
    else:
        found = dequant.dequantize(flat, _NUMBERS[kind])
    return found.reshape(*stored.shape[:-1], -1)


_TWICE_FP4 = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0)
"""By code; ggml knows one zero only, other than OCP's format."""


def _half(blocks: Tensor, at: int) -> Tensor:
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _fives(blocks: Tensor, at: int) -> Tensor:
    """32 integers of five bits: a plane of their high bits (4 bytes), then their low halves (16 bytes)."""
    high = (blocks[:, at : at + 4, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    low = torch.cat((blocks[:, at + 4 :] & 15, blocks[:, at + 4 :] >> 4), 1)
    return low | (high.reshape(-1, 32) << 4)


def _q5_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_fives(blocks, 2).to(torch.int8) - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _fives(blocks, 4) + _half(blocks, 2)


def _mxfp4(blocks: Tensor) -> Tensor:
    code = torch.cat((blocks[:, 1:] & 15, blocks[:, 1:] >> 4), 1).int()
    return torch.ldexp(torch.tensor(_TWICE_FP4)[code], blocks[:, :1].int() - 128)


_OURS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "Q5_0": (22, _q5_0),
    "Q5_1": (24, _q5_1),
    "MXFP4": (17, _mxfp4),
}
"""By type: bytes of a block, and what makes [B, 32] of [B, bytes]."""

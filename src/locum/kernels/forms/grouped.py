"""locum's own groups of small integers, as `kernels.quantise` makes them. One product in float32.

Axes: O outputs, I inputs, G groups of inputs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from locum.kernels.forms.base import Make


def make(method: str, numbers: str) -> Make:
    """`method`: `int8` or `int4`; `numbers`: `g` and the inputs of a group."""
    group = int(numbers.removeprefix("g"))
    halves = method == "int4"

    def dequantise(pieces: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice) -> Tensor:
        codes, scales = pieces["codes"][rows], pieces["scales"][rows]
        code_OGI = unpack(codes, group) if halves else codes.view(*codes.shape[:-1], -1, group)
        made: Tensor = (code_OGI.float() * scales.float()[..., None]).flatten(-2)
        return made

    return dequantise


def pack(code_OGI: Tensor) -> Tensor:
    """Codes -8 to 7 [O, G, I] to bytes [O, G * I / 2].

    A group's first half is in the low four bits, its second in the high ones: one mask and one shift give
    whole runs.
    """
    low, high = (code_OGI + 8).to(torch.uint8).chunk(2, -1)
    return (low | high << 4).flatten(-2)


def unpack(codes: Tensor, group: int) -> Tensor:
    """The other way round: codes [O, G, I] in int8."""
    octets = codes.view(*codes.shape[:-1], -1, group // 2)
    return torch.cat((octets & 15, octets >> 4), -1).to(torch.int8) - 8

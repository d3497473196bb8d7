"""GPTQ's packed integers. Source: GPTQModel 7.7: the product is taken in the scales' dtype.

Axes: O outputs, I inputs, G groups of inputs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from locum.kernels.forms import words
from locum.kernels.forms.base import Make
from locum.kernels.forms.order import group_of_each


def make(method: str, numbers: str) -> Make:
    """`numbers`: bits. Method `gptq1` keeps zero points less one, `gptq2` as they are.

    One is taken off the whole word, so a zero point of 0 borrows from its neighbour and gets it back here.
    """
    bits = words.width(numbers)
    less = sum(1 << place for place in range(0, 32, bits)) if method == "gptq1" else 0

    def made(pieces: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice) -> Tensor:
        code_OI = words.unpack(pieces["codes"][:, rows].T, bits).to(torch.int16)
        scales_GO = pieces["scales"][:, rows]
        zero_GO = words.unpack(pieces["zeros"] + less, bits)[:, : shape[0]]  # the last word may be half empty
        zero_GO = zero_GO[:, rows].to(torch.int16)
        group_I = group_of_each(pieces.get("order"), shape[1], len(scales_GO))
        if group_I is None:
            group_I = torch.arange(shape[1], device=scales_GO.device) // (shape[1] // len(scales_GO))
        return (code_OI - zero_GO.T[:, group_I]).to(scales_GO.dtype) * scales_GO.T[:, group_I]

    return made

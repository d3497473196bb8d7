"""compressed-tensors' packed integers.

Source: compressed-tensors 0.20: the product is taken in the scales' dtype.

Axes: O outputs, I inputs, G groups of inputs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from locum.kernels.forms import words
from locum.kernels.forms.base import Make


def make(method: str, numbers: str) -> Make:
    """`numbers`: bits."""
    bits = int(numbers)
    middle = 1 << (bits - 1)

    def made(pieces: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice) -> Tensor:
        scales_OG = pieces["scales"][rows]
        code_OI = words.unpack(pieces["codes"][rows], bits).to(scales_OG.dtype) - middle
        zeros_OG = pieces.get("zeros")
        if zeros_OG is not None:
            if zeros_OG.dtype == torch.int32:
                unpacked = words.unpack(zeros_OG.transpose(-1, -2), bits)[..., : shape[-2]]
                zeros_OG = unpacked.transpose(-1, -2).to(scales_OG.dtype) - middle
            zeros_OG = zeros_OG[rows].to(scales_OG.dtype)
        if (order_I := pieces.get("order")) is not None:
            code_OI = code_OI if zeros_OG is None else code_OI - zeros_OG[..., order_I.long()]
            return code_OI * scales_OG[..., order_I.long()]
        grouped = code_OI.unflatten(-1, (scales_OG.shape[-1], -1))
        grouped = grouped if zeros_OG is None else grouped - zeros_OG[..., None]
        weight_OI: Tensor = (grouped * scales_OG[..., None]).flatten(-2)
        return weight_OI

    return made

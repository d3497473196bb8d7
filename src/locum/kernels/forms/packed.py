"""compressed-tensors' integers, packed or one to a byte.

Source: compressed-tensors 0.20: the product is taken in the scales' dtype.

Axes: O outputs, I inputs, G groups of inputs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from locum.kernels.forms import words
from locum.kernels.forms.base import Make
from locum.kernels.forms.order import group_of_each


def make(method: str, numbers: str) -> Make:
    """`numbers`: bits."""
    bits = words.width(numbers)
    middle = 1 << (bits - 1)

    def made(pieces: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        scales_OG, codes, zeros_OG = _grid(pieces["scales"]), pieces["codes"], pieces.get("zeros")
        if codes.dtype == torch.int8:
            code_OI = codes.to(scales_OG.dtype)
        else:
            code_OI = words.unpack(codes, bits).to(scales_OG.dtype) - middle
        if zeros_OG is not None:
            if zeros_OG.dtype == torch.int32:
                rows = code_OI.shape[-2]
                packed = words.unpack(zeros_OG.transpose(-1, -2), bits)[..., :rows]
                zeros_OG = packed.transpose(-1, -2).to(scales_OG.dtype) - middle
            zeros_OG = _grid(zeros_OG).to(scales_OG.dtype)
        group_I = group_of_each(pieces.get("order"), shape[-1], scales_OG.shape[-1])
        if group_I is not None:
            code_OI = code_OI if zeros_OG is None else code_OI - zeros_OG[..., group_I]
            return code_OI * scales_OG[..., group_I]
        grouped = code_OI.unflatten(-1, (scales_OG.shape[-1], -1))
        grouped = grouped if zeros_OG is None else grouped - zeros_OG[..., None]
        weight_OI: Tensor = (grouped * scales_OG[..., None]).flatten(-2)
        return weight_OI

    return made


def _grid(stored: Tensor) -> Tensor:
    """[O, G]: of one for all or one per output as well."""
    return stored if stored.dim() > 1 else stored.view(-1, 1)

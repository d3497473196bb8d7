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

    def made(pieces: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice) -> Tensor:
        scales_OG, codes, zeros_OG = _some(pieces["scales"], rows), pieces["codes"], pieces.get("zeros")
        if codes.dtype == torch.int8:
            code_OI = codes[..., rows, :].to(scales_OG.dtype)
        else:
            code_OI = words.unpack(codes[..., rows, :], bits).to(scales_OG.dtype) - middle
        if zeros_OG is not None:
            if zeros_OG.dtype == torch.int32:
                unpacked = words.unpack(zeros_OG.transpose(-1, -2), bits)[..., : shape[-2]]
                zeros_OG = unpacked.transpose(-1, -2).to(scales_OG.dtype) - middle
            zeros_OG = _some(zeros_OG, rows).to(scales_OG.dtype)
        group_I = group_of_each(pieces.get("order"), shape[-1], scales_OG.shape[-1])
        if group_I is not None:
            code_OI = code_OI if zeros_OG is None else code_OI - zeros_OG[..., group_I]
            return code_OI * scales_OG[..., group_I]
        grouped = code_OI.unflatten(-1, (scales_OG.shape[-1], -1))
        grouped = grouped if zeros_OG is None else grouped - zeros_OG[..., None]
        weight_OI: Tensor = (grouped * scales_OG[..., None]).flatten(-2)
        return weight_OI

    return made


def _some(stored: Tensor, rows: slice) -> Tensor:
    """[O, G] of some rows: of one number for all or one per output as well."""
    grid = stored if stored.dim() > 1 else stored.view(-1, 1)
    return grid if grid.shape[-2] == 1 else grid[..., rows, :]

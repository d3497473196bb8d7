"""8-bit floats with one scale per block, and 4-bit floats likewise.

Source: transformers 5.23, `integrations/finegrained_fp8.py`: the product is taken in float32.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor

from locum.kernels.forms.base import Make
from locum.kernels.forms.fp4 import unpack


def make(method: str, numbers: str) -> Make:
    """`numbers`: rows x columns that share a scale, which may be more than there are."""
    rows, columns = map(int, numbers.split("x"))
    if min(rows, columns) < 1:
        raise ValueError(f"a block of {rows} rows and {columns} columns")

    def dequantise(pieces: Mapping[str, Tensor], shape: tuple[int, ...], some: slice) -> Tensor:
        codes = pieces["codes"][..., some, :]
        weight = unpack(codes.view(torch.uint8)) if method == "fp4" else codes.float()
        scale = _scales(pieces["scales"])
        scale = scale.reshape(*weight.shape[:-2], *scale.shape[-2:]) if scale.dim() > 1 else scale.view(-1, 1)
        scale = scale[..., torch.arange(shape[-2], device=codes.device)[some] // rows, :]
        across = min(columns, weight.shape[-1])
        ragged = -weight.shape[-1] % across
        if ragged:
            weight = F.pad(weight, (0, ragged))
        grouped = weight.unflatten(-1, (-1, across)) * scale[..., None]
        made: Tensor = grouped.flatten(-2)[..., : shape[-1]].contiguous()
        return made

    return dequantise


def _scales(stored: Tensor) -> Tensor:
    """As float32; bytes are exponents of two, less 127."""
    if stored.dtype == torch.uint8:
        return (stored.float() - 127.0).exp2()
    return stored.float()

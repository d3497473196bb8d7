"""AWQ's packed integers. Source: AutoAWQ's `gemm` packing: the product is taken in the scales' dtype.

Axes: O outputs, I inputs, G groups of inputs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from locum.kernels.forms import words
from locum.kernels.forms.base import Make

_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Output 0 to 7 of a word: which four bits hold it, counted from the low end."""


def make(method: str, numbers: str) -> Make:
    """Takes no numbers: always four bits."""
    return _made


def _made(pieces: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    scales_GO = pieces["scales"]
    code_IO, zero_GO = _unpack(pieces["codes"]), _unpack(pieces["zeros"])
    grouped = code_IO.view(len(scales_GO), -1, shape[0]) - zero_GO[:, None]
    weight_IO: Tensor = (grouped.to(scales_GO.dtype) * scales_GO[:, None]).view(shape[1], shape[0])
    return weight_IO.T.contiguous()


def _unpack(stored: Tensor) -> Tensor:
    eights: Tensor = words.unpack(stored, 4).to(torch.int8).unflatten(-1, (-1, 8))
    return eights.index_select(-1, torch.tensor(_PLACES, device=stored.device)).flatten(-2)

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


def _made(pieces: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice) -> Tensor:
    scales_GO = pieces["scales"][:, rows]
    code_IO, zero_GO = _unpack(pieces["codes"], rows), _unpack(pieces["zeros"], rows)
    grouped = code_IO.unflatten(0, (len(scales_GO), -1)) - zero_GO[:, None]
    weight_IO: Tensor = (grouped.to(scales_GO.dtype) * scales_GO[:, None]).flatten(0, 1)
    return weight_IO.T.contiguous()


def _unpack(stored: Tensor, rows: slice) -> Tensor:
    """The outputs `rows` of [..., O / 8] words."""
    first, stop, _ = rows.indices(8 * stored.shape[-1])
    eights: Tensor = (
        words.unpack(stored[:, first // 8 : -(-stop // 8)], 4).to(torch.int8).unflatten(-1, (-1, 8))
    )
    ordered = eights.index_select(-1, torch.tensor(_PLACES, device=stored.device)).flatten(-2)
    return ordered[:, first % 8 :][:, : stop - first]

"""Round to nearest in groups, with a search for each group's scale.

A scale that spends the whole range on the largest weight of a group is rarely the best: shrinking it clips
that one weight and makes the steps of all others finer. Some are tried and the one with the least squared
error is kept. Scales may be negative, because the range of codes is one longer on one side.

Axes: O outputs, G groups of inputs, I inputs of a group.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from locum.kernels.forms.grouped import pack

SHRINK = {8: (1.0,), 4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)}
"""Shares of the full scale that are tried, by bits. With 8 bits, clipping gained nothing (measured)."""
SCALE_DTYPE = torch.bfloat16
"""Of float32's range: the scales of small weights would vanish in float16."""
_CHUNK = 1 << 18  # weights at a time: the search stays in the processor's cache


class Grouped(NamedTuple):
    """A quantised matrix: `codes` int8 [O, I] or, with 4 bits, uint8 [O, I / 2]; `scales` [O, G]."""

    codes: Tensor
    scales: Tensor


def group_size(inputs: int, wanted: int) -> int | None:
    """The largest group of at most `wanted` inputs (halved as often as needed, at least 8) that divides
    `inputs`; None where there is none.
    """
    while wanted >= 8:
        if inputs % wanted == 0:
            return wanted
        wanted //= 2
    return None


def quantise(weight_OI: Tensor, bits: int, group: int) -> Grouped:
    """`weight_OI` in groups of `group` inputs, which must divide I. Exact zeros stay zeros."""
    rows = max(1, _CHUNK // weight_OI.shape[1])
    codes, scales = [], []
    for chunk in weight_OI.split(rows):
        code_OGI, scale_OG = _search(chunk.float().unflatten(1, (-1, group)), bits)
        codes.append(code_OGI.to(torch.int8).flatten(1) if bits == 8 else pack(code_OGI))
        scales.append(scale_OG)
    return Grouped(torch.cat(codes), torch.cat(scales))


class _Rounded(NamedTuple):
    """One try: codes [O, G, I], scale and squared error [O, G, 1]."""

    code: Tensor
    scale: Tensor
    error: Tensor


def _search(weight_OGI: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(codes, scales) with the least squared error among those tried."""
    lowest = -(1 << (bits - 1))
    largest = weight_OGI.gather(-1, weight_OGI.abs().argmax(-1, keepdim=True))
    first, *others = (largest * (shrink / lowest) for shrink in SHRINK[bits])
    best = _rounded(weight_OGI, first, lowest)
    for scale in others:
        tried = _rounded(weight_OGI, scale, lowest)
        better = tried.error < best.error
        best = _Rounded(*(torch.where(better, new, old) for new, old in zip(tried, best, strict=True)))
    return best.code, best.scale[..., 0]


def _rounded(weight_OGI: Tensor, wanted: Tensor, lowest: int) -> _Rounded:
    scale = wanted.to(SCALE_DTYPE)
    step = torch.where(scale == 0, torch.ones_like(scale), scale).float()
    code = (weight_OGI / step).round().clamp_(lowest, -lowest - 1)
    error = (code * scale.float()).sub_(weight_OGI).square_().sum(-1, keepdim=True)
    return _Rounded(code, scale, error)

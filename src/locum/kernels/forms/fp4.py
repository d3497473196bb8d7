"""Floats of four bits: one sign, two of exponent, one of mantissa (E2M1, OCP Microscaling v1.0)."""

import torch
from torch import Tensor

VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""By code."""


def unpack(bytes_: Tensor) -> Tensor:
    """[..., n] bytes to [..., 2 n] numbers in float32, the low half of a byte first."""
    table = torch.tensor(VALUES, device=bytes_.device)
    # one lookup per byte instead of two per pair: 256 pairs are soon made
    pairs = torch.stack((table.repeat(16), table.repeat_interleave(16)), -1)
    return pairs[bytes_.int()].flatten(-2)

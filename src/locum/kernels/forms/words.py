"""Integers of 2, 4 or 8 bits in 32-bit words, the low ones first."""

import torch
from torch import Tensor


def width(numbers: str) -> int:
    """The bits that a form's name gives. Raises `ValueError` for integers that do not fill a byte."""
    bits = int(numbers)
    if bits not in {2, 4, 8}:
        raise ValueError(f"integers of {bits} bits")
    return bits


def unpack(words: Tensor, bits: int) -> Tensor:
    """[..., n] int32 to [..., n * 32 / bits] uint8."""
    octets = words.contiguous().view(-1).view(torch.uint8).view(*words.shape[:-1], -1)
    if bits == 8:
        return octets
    mask = (1 << bits) - 1
    return torch.stack([(octets >> shift) & mask for shift in range(0, 8, bits)], -1).flatten(-2)

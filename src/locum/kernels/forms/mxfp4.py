"""MXFP4: 32 floats of four bits and one power of two. Source: OCP Microscaling, v1.0."""

from collections.abc import Mapping

import torch
from torch import Tensor

from locum.kernels.forms.base import Make
from locum.kernels.forms.fp4 import unpack


def make(method: str, numbers: str) -> Make:
    """Takes no numbers: the block is always 32."""
    return _made


def _made(pieces: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice) -> Tensor:
    exponent = pieces["scales"][rows].int() - 127
    return torch.ldexp(unpack(pieces["codes"][rows]), exponent[..., None]).flatten(-2)

"""From an expert as it is stored to the image that a packed folder holds of it.

Axes: O outputs, I inputs.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from locum.errors import NumericsError
from locum.kernels.quantise import group_size, quantise
from locum.kernels.stored import StoredParameter, making, torch_dtype
from locum.model.image import RAW, Matrix, Piece, TensorView
from locum.store.index import ALIGN, LayerIndex

FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BITS = {"int8": 8, "int4": 4}
STORED = "stored"
"""The precision that changes nothing."""


class Image(NamedTuple):
    """What an expert becomes: its bytes, and where its parameters lie in them."""

    data: memoryview
    tensors: tuple[TensorView, ...]


class Target(NamedTuple):
    """What experts are to become: `stored`, or a key of `FLOATS` or `BITS`; at most how many inputs share a
    scale; whether the module multiplies by [I, O].
    """

    precision: str
    group: int
    transposed: bool


def convert(layer: LayerIndex, expert: int, image: memoryview, target: Target) -> Image:
    """The new image of `expert`, whose stored image is `image`.

    Vectors keep their dtype when matrices are quantised.
    Raises `NumericsError` for weights that are, or would become, no numbers, `CheckpointError` for stored
    ones that cannot be.
    """
    if target.precision == STORED:
        return Image(image[: layer.image_bytes], layer.tensors)
    parts: dict[str, tuple[TensorView, dict[str, Tensor]]] = {}
    for view in layer.tensors:
        own = torch_dtype(view.raw_dtype) if view.raw_dtype else torch.float32
        where = f"{view.name} of expert {expert} of {layer.module}"
        with making(where):
            stored = StoredParameter(view).read(image, 0, own)
        weight = as_numbers(stored, FLOATS.get(target.precision, own), where)
        parts[view.name] = _coded(view, weight, target)
    return _laid_out(parts)


def as_numbers(weight: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """`weight` in `dtype`. Raises `NumericsError` for what is no number, or too large for `dtype`."""
    made = weight.to(dtype)
    if bool(torch.isfinite(made).all()):
        return made
    if bool(torch.isfinite(weight).all()):
        raise NumericsError(
            "weights are too large for the precision asked for",
            where=where,
            allowed=f"at most {torch.finfo(dtype).max:g}, the largest number of {dtype}",
            got=f"{float(weight.abs().max()):g}",
            todo="Ask for bf16 instead, which has the range of fp32",
        )
    raise NumericsError(
        "NaN or infinity among the weights", where=where, todo="The checkpoint is damaged: download it again"
    )


def _coded(view: TensorView, weight: Tensor, target: Target) -> tuple[TensorView, dict[str, Tensor]]:
    """The pieces by role, and the view of them but for their places."""
    precision, group, transposed = target
    bits = BITS.get(precision)
    shape = tuple(weight.shape)
    turned = weight.T if transposed and weight.dim() == 2 else weight
    size = group_size(turned.shape[-1], group) if bits and weight.dim() == 2 else None
    if bits is None or size is None:
        pieces = {"weight": weight.contiguous()}
        form = RAW
    else:
        pieces = quantise(turned, bits, size)._asdict()
        form = f"{precision}-g{size}" + ("+transposed" if transposed else "")
    matrix = Matrix(form, shape, ())
    return TensorView(view.name, shape, (matrix,)), pieces


def _laid_out(parts: Mapping[str, tuple[TensorView, dict[str, Tensor]]]) -> Image:
    views, runs, at = [], [], 0
    for view, pieces in parts.values():
        placed = []
        for role, tensor in pieces.items():
            at = -(-at // ALIGN) * ALIGN
            dtype = str(tensor.dtype).removeprefix("torch.")
            placed.append(Piece(role, dtype, tuple(tensor.shape), at))
            runs.append((at, tensor))
            at += tensor.nbytes
        views.append(replace(view, matrices=(replace(view.matrices[0], pieces=tuple(placed)),)))
    data = memoryview(bytearray(at))
    for start, tensor in runs:
        data[start : start + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
    return Image(data, tuple(views))

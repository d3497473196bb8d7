"""Forms in which weights are stored that are not how they are multiplied: put right at each use.

A form's name is a method and its numbers (`packed-4`, `fp8-128x128`), followed by what has to be moved to its
place afterwards (`mxfp4+transposed`, `raw+interleaved-4`). `raw` is none at all.
"""

from collections.abc import Callable, Mapping
from importlib import import_module

from torch import Tensor

from locum.errors import UnsupportedError
from locum.kernels.forms.base import Make
from locum.kernels.forms.placement import PLACEMENTS

__all__ = ["Make", "maker", "placed_shape"]

_METHODS = {
    "raw": "placement",
    "fp8": "fp8",
    "fp4": "fp8",
    "mxfp4": "mxfp4",
    "packed": "packed",
    "gptq1": "gptq",
    "gptq2": "gptq",
    "awq": "awq",
    "int8": "grouped",
    "int4": "grouped",
    "gguf": "gguf",
    "gguf_latent": "gguf",
    "gguf_joined": "gguf",
}
"""Method to the file that knows it, imported only when asked for."""


def maker(form: str) -> Make:
    """The function that makes a matrix of this form. Raises `UnsupportedError` for one that is not known."""
    name, *placements = form.split("+")
    method, _, numbers = name.partition("-")
    if method not in _METHODS or not {name.partition("-")[0] for name in placements} <= PLACEMENTS.keys():
        raise UnsupportedError(
            "weights are stored in a form that is not known", allowed=", ".join(_METHODS), got=repr(form)
        )
    make: Make = import_module(f"locum.kernels.forms.{_METHODS[method]}").make(method, numbers)
    for placement in placements:
        make = _then(make, placement)
    return make


def _then(make: Make, placement: str) -> Make:
    name, _, number = placement.partition("-")
    move: Callable[[Tensor, int], Tensor] = PLACEMENTS[name]

    def made(pieces: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return move(make(pieces, placed_shape(placement, shape)), int(number or 1))

    return made


def placed_shape(form: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape before its placements of a matrix that is `shape` afterwards; the other way round as well."""
    turned = form.split("+").count("transposed") % 2
    return (*shape[:-2], shape[-1], shape[-2]) if turned else shape

"""Forms in which weights are stored that are not how they are multiplied: put right at each use.

A form's name is a method and its numbers (`packed-4`, `fp8-128x128`), followed by what has to be moved to its
place afterwards (`mxfp4+transposed`, `raw+interleaved-4`). `raw` is none at all.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module

from torch import Tensor

from locum.errors import UnsupportedError
from locum.kernels.forms.base import WHOLE, Make
from locum.kernels.forms.placement import PLACEMENTS

__all__ = ["FILLING_BYTES", "Maker", "maker", "placed_shape"]

_RUN = 1 << 20
"""Numbers that are made at a time."""
FILLING_BYTES = 20 * _RUN
"""The most memory that makes them: 4 to 19 bytes a number, by form (measured)."""

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


def maker(form: str) -> "Maker":
    """What makes matrices of this form. Raises `UnsupportedError` for one that is not known."""
    name, *placements = form.split("+")
    method, _, numbers = name.partition("-")
    if method not in _METHODS or not {name.partition("-")[0] for name in placements} <= PLACEMENTS.keys():
        raise UnsupportedError(
            "weights are stored in a form that is not known", allowed=", ".join(_METHODS), got=repr(form)
        )
    make: Make = import_module(f"locum.kernels.forms.{_METHODS[method]}").make(method, numbers)
    return Maker(form, make, placements)


class Maker:
    """Makes the matrices of one form."""

    def __init__(self, form: str, make: Make, placements: Sequence[str]) -> None:
        self._form, self._make, self._placements = form, make, placements

    @property
    def placed(self) -> bool:
        """Whether it is made elsewhere and then moved to its place."""
        return bool(self._placements)

    def __call__(self, pieces: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The matrix of `shape`, in the dtype that the method computes in."""
        return self._placed(self._make(pieces, placed_shape(self._form, shape), WHOLE))

    def fill(self, out: Tensor, pieces: Mapping[str, Tensor]) -> None:
        """Make the matrix in `out` and in its dtype, a few rows at a time.

        Whole, the numbers on the way would take several times its memory. With placements, they take as much
        as it once more.
        """
        shape = placed_shape(self._form, tuple(out.shape))
        if len(shape) != 2:
            out.copy_(self(pieces, tuple(out.shape)))
            return
        made = out.new_empty(shape) if self._placements else out
        step = max(1, _RUN // shape[1])
        for first in range(0, shape[0], step):
            rows = slice(first, min(first + step, shape[0]))
            made[rows] = self._make(pieces, shape, rows)
        if self._placements:
            out.copy_(self._placed(made))

    def _placed(self, made: Tensor) -> Tensor:
        for placement in self._placements:
            name, _, number = placement.partition("-")
            made = PLACEMENTS[name](made, int(number or 1))
        return made


def placed_shape(form: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape before its placements of a matrix that is `shape` afterwards; the other way round as well."""
    turned = form.split("+").count("transposed") % 2
    return (*shape[:-2], shape[-1], shape[-2]) if turned else shape

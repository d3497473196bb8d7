"""Forms in which experts are stored that are not how they are multiplied: put right at each use.

The slot keeps the bytes as they are in the file, whatever they mean; the copy lives as long as its product.

Axes: I intermediate, O and H the two sides of a weight.
"""

from collections.abc import Callable

from torch import Tensor

from locum.errors import UnsupportedError


def _raw(stored: Tensor) -> Tensor:
    return stored


def _interleaved(stored_2IH: Tensor) -> Tensor:
    """Rows of gate and up by turns: first all of gate, then all of up."""
    rows = stored_2IH.shape[0] // 2
    return stored_2IH.view(rows, 2, -1).transpose(0, 1).reshape(stored_2IH.shape)


def _transposed(stored_HO: Tensor) -> Tensor:
    return stored_HO.T.contiguous()


_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "raw": _raw,
    "interleaved": _interleaved,
    "transposed": _transposed,
}
"""By name, from the tensor as stored to the one that transformers would have loaded."""


def restorer(form: str) -> Callable[[Tensor], Tensor]:
    """The function that puts a form right. Raises `UnsupportedError` for one that is not known."""
    if form not in _FORMS:
        raise UnsupportedError(
            "experts are stored in a form that is not known", allowed=", ".join(_FORMS), got=form
        )
    return _FORMS[form]


def stored_shape(form: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the file of a tensor that is `shape` once put right."""
    return shape[::-1] if form == "transposed" else shape

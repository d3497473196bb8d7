"""What an expert's image in memory consists of, as plain data.

An image is an expert's stored tensors one after the other. A parameter is a view of it, or is made from it at
each use.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

RAW = "raw"
"""The form of a matrix that is stored as it is multiplied."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One stored tensor in an image: what it is to its matrix, torch's name of its dtype, shape, first byte.

    Roles are those of the matrix's form (`codes`, `scales`, ...); the whole of a raw matrix is its `weight`.
    """

    role: str
    dtype: str
    shape: tuple[int, ...]
    at: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of `shape` that is made from `pieces` by a form, a name of `kernels.forms`.

    `raw`: the one piece is the matrix.
    """

    form: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class TensorView:
    """One parameter of an expert: name (`gate_up_proj`), shape, and the matrices whose rows make it up."""

    name: str
    shape: tuple[int, ...]
    matrices: tuple[Matrix, ...]

    @property
    def raw_dtype(self) -> str | None:
        """The dtype of a parameter that can be used where it lies; None where it must be made at each use."""
        if len(self.matrices) == 1 and self.matrices[0].form == RAW:
            return self.matrices[0].pieces[0].dtype
        return None


_Field = TypeVar("_Field", str, int, bool)


def exactly(kind: type[_Field], value: Any) -> _Field:
    """`value`, if it is of exactly this type (JSON's true is no integer). Raises `TypeError`."""
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value


def view_of(values: dict[str, Any]) -> TensorView:
    """A view from what `dataclasses.asdict` made of it. Raises `KeyError` and `TypeError`."""
    return TensorView(
        name=exactly(str, values["name"]),
        shape=_shape(values["shape"]),
        matrices=tuple(_matrix(matrix) for matrix in values["matrices"]),
    )


def _matrix(values: dict[str, Any]) -> Matrix:
    return Matrix(
        form=exactly(str, values["form"]),
        shape=_shape(values["shape"]),
        pieces=tuple(_piece(piece) for piece in values["pieces"]),
    )


def _piece(values: dict[str, Any]) -> Piece:
    return Piece(
        role=exactly(str, values["role"]),
        dtype=exactly(str, values["dtype"]),
        shape=_shape(values["shape"]),
        at=exactly(int, values["at"]),
    )


def _shape(values: Any) -> tuple[int, ...]:
    return tuple(exactly(int, size) for size in values)

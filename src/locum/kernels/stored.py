"""A parameter of an expert as it lies in a slot, and what is multiplied."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from locum.errors import CheckpointError
from locum.kernels.forms import maker
from locum.store.index import Matrix, Piece, TensorView


def torch_dtype(name: str) -> torch.dtype:
    """`bfloat16` -> `torch.bfloat16`."""
    dtype: Any = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every number of `narrow` is one of `wide`."""
    return torch.promote_types(wide, narrow) == wide


@contextmanager
def making(what: object) -> Iterator[None]:
    """Names `what` where a form finds numbers that cannot be. Raises `CheckpointError`."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(
            "stored weights make no sense", where=what, got=error, todo="Download the checkpoint again"
        ) from error


class StoredParameter:
    """Reads one parameter from slots that hold an expert's image."""

    def __init__(self, view: TensorView) -> None:
        self.name, self.shape = view.name, view.shape
        self._raw = view.raw_dtype is not None
        self._parts = [_Part(matrix) for matrix in view.matrices]

    def in_place(self, dtype: torch.dtype) -> bool:
        """Whether it can be multiplied where it lies by a model that computes in `dtype`."""
        return self._raw and self._parts[0].pieces[0].dtype == dtype

    def read(self, memory: memoryview, image: int, dtype: torch.dtype) -> Tensor:
        """The parameter in `dtype`, of the image that begins at byte `image` of `memory`: a view of it where
        `in_place`, else new memory. Raises `ValueError` for numbers that cannot be.
        """
        return _joined([part.read(memory, image) for part in self._parts]).to(dtype)

    def trial(self) -> tuple[int, ...]:
        """The shape that `read` would give, without memory.

        Raises what torch raises for pieces that do not fit
        each other, and `KeyError` for missing ones.
        """
        return tuple(_joined([part.trial() for part in self._parts]).shape)


def _joined(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)


class _Part:
    def __init__(self, matrix: Matrix) -> None:
        self.shape = matrix.shape
        self.make = maker(matrix.form)
        self.pieces = [_StoredPiece(piece) for piece in matrix.pieces]

    def read(self, memory: memoryview, image: int) -> Tensor:
        pieces: Mapping[str, Tensor] = {piece.role: piece.read(memory, image) for piece in self.pieces}
        return self.make(pieces, self.shape)

    def trial(self) -> Tensor:
        pieces = {p.role: torch.empty(p.shape, dtype=p.dtype, device="meta") for p in self.pieces}
        made = self.make(pieces, self.shape)
        if tuple(made.shape) != self.shape:
            raise ValueError(f"the pieces make {list(made.shape)}, not {list(self.shape)}")
        return made


class _StoredPiece:
    def __init__(self, piece: Piece) -> None:
        self.role, self.dtype = piece.role, torch_dtype(piece.dtype)
        self.shape, self.count, self.at = piece.shape, piece.elements, piece.at

    def read(self, memory: memoryview, image: int) -> Tensor:
        flat = torch.frombuffer(memory, dtype=self.dtype, count=self.count, offset=image + self.at)
        return flat.view(self.shape)

"""A parameter of an expert as it lies in a slot, and what is multiplied."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from locum.errors import CheckpointError
from locum.kernels.forms import FILLING_BYTES, maker
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
        if self.in_place(dtype):
            return self._parts[0].pieces[0].read(memory, image)
        made, rows = torch.empty(self.shape, dtype=dtype), 0
        for part in self._parts:
            part.fill(made[rows : rows + part.shape[0]], memory, image)
            rows += part.shape[0]
        return made

    def made_bytes(self, dtype: torch.dtype) -> int:
        """The most memory that `read` takes for it in `dtype`."""
        if self.in_place(dtype):
            return 0
        numbers = [math.prod(part.shape) for part in self._parts]
        placed = [count for count, part in zip(numbers, self._parts, strict=True) if part.make.placed]
        return dtype.itemsize * (sum(numbers) + max(placed, default=0)) + FILLING_BYTES

    def trial(self) -> tuple[int, ...]:
        """The shape that `read` would give, without memory.

        Raises what torch raises for pieces that do not fit
        each other, and `KeyError` for missing ones.
        """
        return tuple(torch.cat([part.trial() for part in self._parts]).shape)


class StoredExpert(Mapping[str, Tensor]):
    """The parameters of the expert whose image begins at byte `image` of `memory`, by name.

    Those that are made are made each time they are asked for, so that only one of them takes memory; asking
    raises `CheckpointError`, with what the expert is `called`, for numbers that cannot be.
    """

    def __init__(
        self,
        parameters: Sequence[StoredParameter],
        memory: memoryview,
        image: int,
        dtype: torch.dtype,
        called: str,
    ) -> None:
        self._parameters = {parameter.name: parameter for parameter in parameters}
        self._memory, self._image, self._dtype, self._called = memory, image, dtype, called

    def __getitem__(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        with making(f"{name} of {self._called}"):
            return parameter.read(self._memory, self._image, self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


class _Part:
    def __init__(self, matrix: Matrix) -> None:
        self.shape = matrix.shape
        self.make = maker(matrix.form)
        self.pieces = [_StoredPiece(piece) for piece in matrix.pieces]

    def fill(self, out: Tensor, memory: memoryview, image: int) -> None:
        self.make.fill(out, {piece.role: piece.read(memory, image) for piece in self.pieces})

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

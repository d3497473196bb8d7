"""The expert index: where each routed expert's bytes lie, as plain data.

`backbone` builds it once with transformers' own converters; `store` reads by it and never sees a model. An
expert's *image* is what the compute code wants to find in memory: its stored tensors one after the other,
those that are multiplied as they are at multiples of 64 bytes. A *span* says which run of a file fills which
run of the image.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from locum.errors import CheckpointError
from locum.files import write_json

SCHEMA = "locum.index/3"
ALIGN = 64
"""Parameters in an image start at multiples of this many bytes: what torch's own allocator gives."""
RAW = "raw"
"""The form of a matrix that is stored as it is multiplied."""


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes at `offset` of file number `file` belong at byte `at` of the image."""

    file: int
    offset: int
    length: int
    at: int


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


@dataclass(frozen=True, slots=True)
class LayerIndex:
    """The routed experts of one MoE layer. All share `tensors`; `experts[e]` are the spans of expert e."""

    module: str
    layer: int
    image_bytes: int
    tensors: tuple[TensorView, ...]
    experts: tuple[tuple[Span, ...], ...]


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """In ascending place; spans that follow each other in file and image alike become one: one read."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.at):
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.file == span.file
            and last.offset + last.length == span.offset
            and last.at + last.length == span.at
        ):
            merged[-1] = Span(last.file, last.offset, last.length + span.length, last.at)
        else:
            merged.append(span)
    return merged


@dataclass(frozen=True, slots=True)
class FileId:
    """A file the index points into, with what betrays a change: size and modification time (ns)."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ExpertIndex:
    """The whole index. Keys are `layer_number * experts_per_layer + expert`, see `key_of`."""

    files: tuple[FileId, ...]
    layers: tuple[LayerIndex, ...]
    """One per MoE layer, in forward order. A layer's number is its place in this tuple."""
    identity: str
    """Hash of config.json and of the file table: a cached index is used only where it matches."""

    @property
    def stride(self) -> int:
        """Keys per layer: the largest number of experts any layer has."""
        return max(len(layer.experts) for layer in self.layers)

    def key_of(self, layer: int, expert: int) -> int:
        """The key of `expert` in MoE layer number `layer`."""
        return layer * self.stride + expert

    def expert_of(self, key: int) -> tuple[int, int]:
        """(layer number, expert) of a key."""
        return divmod(key, self.stride)

    def spans(self, key: int) -> tuple[Span, ...]:
        """The spans of one expert."""
        layer, expert = self.expert_of(key)
        return self.layers[layer].experts[expert]

    def stored_bytes(self, key: int) -> int:
        """Bytes that must be read from the files for one expert, before any rounding to blocks."""
        return sum(span.length for span in self.spans(key))

    def save(self, path: Path) -> None:
        """Write as JSON; a reader sees the old file, the new or none."""
        write_json(path, {"schema": SCHEMA, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "ExpertIndex":
        """Read what `save` wrote. Raises `CheckpointError` when the file is damaged or of another schema."""
        try:
            document: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError("the expert index cannot be read", where=path, got=error) from error
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema != SCHEMA:
            raise CheckpointError("another index format", where=path, allowed=SCHEMA, got=schema)
        try:
            return cls(
                files=tuple(_record(FileId, file) for file in document["files"]),
                layers=tuple(_layer(layer) for layer in document["layers"]),
                identity=_of(str, document["identity"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError("the expert index is damaged", where=path, got=repr(error)) from error


_Field = TypeVar("_Field", str, int)
_Record = TypeVar("_Record", FileId, Span)


def _of(kind: type[_Field], value: Any) -> _Field:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value


def _record(kind: type[_Record], values: dict[str, Any]) -> _Record:
    """A flat record, each field of exactly its declared type (JSON's true is no integer here)."""
    made = kind(**values)
    for field in fields(kind):
        if type(getattr(made, field.name)) is not field.type:
            raise TypeError(f"{field.name} is {getattr(made, field.name)!r}")
    return made


def _shape(values: Any) -> tuple[int, ...]:
    return tuple(_of(int, size) for size in values)


def _tensor(values: dict[str, Any]) -> TensorView:
    return TensorView(
        name=_of(str, values["name"]),
        shape=_shape(values["shape"]),
        matrices=tuple(_matrix(matrix) for matrix in values["matrices"]),
    )


def _matrix(values: dict[str, Any]) -> Matrix:
    return Matrix(
        form=_of(str, values["form"]),
        shape=_shape(values["shape"]),
        pieces=tuple(_piece(piece) for piece in values["pieces"]),
    )


def _piece(values: dict[str, Any]) -> Piece:
    return Piece(
        role=_of(str, values["role"]),
        dtype=_of(str, values["dtype"]),
        shape=_shape(values["shape"]),
        at=_of(int, values["at"]),
    )


def _layer(values: dict[str, Any]) -> LayerIndex:
    return LayerIndex(
        module=_of(str, values["module"]),
        layer=_of(int, values["layer"]),
        image_bytes=_of(int, values["image_bytes"]),
        tensors=tuple(_tensor(tensor) for tensor in values["tensors"]),
        experts=tuple(tuple(_record(Span, span) for span in spans) for spans in values["experts"]),
    )

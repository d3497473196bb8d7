"""The expert index: where each routed expert's bytes lie, as plain data.

`backbone` builds it once with transformers' own converters; `store` reads by it and never sees a model. An
expert's *image* is what the compute code wants to find in memory: its stored tensors one after the other,
those that are multiplied as they are at multiples of 64 bytes. A *span* says which run of a file fills which
run of the image.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from locum.errors import CheckpointError
from locum.files import write_json
from locum.model.image import RAW, Matrix, Piece, TensorView, exactly, view_of

SCHEMA = "locum.index/3"
ALIGN = 64
"""Parameters in an image start at multiples of this many bytes: what torch's own allocator gives."""

__all__ = [
    "ALIGN",
    "RAW",
    "SCHEMA",
    "ExpertIndex",
    "FileId",
    "LayerIndex",
    "Matrix",
    "Piece",
    "Span",
    "TensorView",
    "merge_spans",
]


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes at `offset` of file number `file` belong at byte `at` of the image."""

    file: int
    offset: int
    length: int
    at: int


@dataclass(frozen=True, slots=True)
class LayerIndex:
    """The routed experts of one MoE layer. All share `tensors`; `experts[e]` are the spans of expert e."""

    module: str
    layer: int
    image_bytes: int
    tensors: tuple[TensorView, ...]
    experts: tuple[tuple[Span, ...], ...]
    checksums: tuple[str, ...] = ()
    """xxh3-64 of each expert's image in hexadecimal digits, where the files have them."""


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
                identity=exactly(str, document["identity"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError("the expert index is damaged", where=path, got=repr(error)) from error


_Record = TypeVar("_Record", FileId, Span)


def _record(kind: type[_Record], values: dict[str, Any]) -> _Record:
    """A flat record, each field of exactly its declared type (JSON's true is no integer here)."""
    made = kind(**values)
    for field in fields(kind):
        if type(getattr(made, field.name)) is not field.type:
            raise TypeError(f"{field.name} is {getattr(made, field.name)!r}")
    return made


def _layer(values: dict[str, Any]) -> LayerIndex:
    return LayerIndex(
        module=exactly(str, values["module"]),
        layer=exactly(int, values["layer"]),
        image_bytes=exactly(int, values["image_bytes"]),
        tensors=tuple(view_of(tensor) for tensor in values["tensors"]),
        experts=tuple(tuple(_record(Span, span) for span in spans) for spans in values["experts"]),
        checksums=tuple(exactly(str, text) for text in values["checksums"]),
    )

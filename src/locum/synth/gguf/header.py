"""The bytes before a GGUF's data. No torch.

The format is that of `model.gguf.reader`; version 3, little-endian, alignment 32.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from locum.model.gguf.ggml import TYPES
from locum.model.gguf.reader import MAGIC

ALIGNMENT = 32
_VERSION = 3
_U32, _I32, _F32, _BOOL, _TEXT, _ARRAY = 4, 5, 6, 7, 8, 9
_NUMBERS = {kind.name: number for number, kind in TYPES.items()}

Value = bool | int | float | str | list[str] | list[int]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the file. `shape`: slowest side first. `offset`: bytes from the beginning of the data."""

    name: str
    kind: str
    """ggml's name of the type."""
    shape: tuple[int, ...]
    offset: int

    @property
    def length(self) -> int:
        """In bytes."""
        return length_of(self.kind, self.shape)


def length_of(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; its rows must be whole blocks."""
    form, length = TYPES[_NUMBERS[kind]], 1
    assert shape[-1] % form.elements == 0, "a row that is no whole number of blocks"
    for side in (*shape[:-1], shape[-1] // form.elements):
        length *= side
    return length * form.bytes


def aligned(at: int) -> int:
    """The first place from `at` on where a tensor may begin."""
    return -(-at // ALIGNMENT) * ALIGNMENT


def header(values: Mapping[str, Value], tensors: Sequence[Stored]) -> bytes:
    """Everything up to the data: metadata and the table of tensors, padded.

    Whole numbers are written as uint32 (in arrays int32, as the `gguf` package does), real ones as float32.
    """
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(values))]
    for key, value in values.items():
        parts += [_text(key), _value(value)]
    for tensor in tensors:
        sides = tensor.shape[::-1]
        parts.append(_text(tensor.name))
        parts.append(struct.pack(f"<I{len(sides)}Q", len(sides), *sides))
        parts.append(struct.pack("<IQ", _NUMBERS[tensor.kind], tensor.offset))
    written = b"".join(parts)
    return written.ljust(aligned(len(written)), b"\0")


def _text(text: str) -> bytes:
    packed = text.encode()
    return struct.pack("<Q", len(packed)) + packed


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _TEXT) + _text(value)
    return struct.pack("<I", _ARRAY) + _array(value)


def _array(values: Sequence[str] | Sequence[int]) -> bytes:
    if values and isinstance(values[0], int):
        return struct.pack(f"<IQ{len(values)}i", _I32, len(values), *values)
    return struct.pack("<IQ", _TEXT, len(values)) + b"".join(_text(str(text)) for text in values)

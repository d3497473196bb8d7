"""The header of one GGUF file: its metadata, which tensors it holds, where their bytes lie. Reads no weights.

The format (GGUF 2 and 3, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), all little-endian: the
letters GGUF, version, number of tensors, number of metadata entries; the entries, each a key, a type and a
value; for each tensor its name, sides (the fastest first), type and offset; padding; then the data, to whose
beginning the offsets refer. Nothing that a file says is believed before it is compared with the file's size.
"""

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from locum.errors import CheckpointError, UnsupportedError
from locum.model.gguf.ggml import TYPES
from locum.model.header import LIMIT, TensorInfo

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_TENSORS = 1 << 17
_MOST_ENTRIES = 1 << 16
_MOST_TEXTS = 1 << 22
_LONGEST_NAME = 1 << 16
_STEP = 1 << 20
_TEXT, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TextArray:
    """An array of texts in the metadata, decoded when asked for: a vocabulary is long."""

    count: int
    packed: bytes
    """Each text as its length (8 bytes) and its UTF-8."""

    def texts(self) -> list[str]:
        """All of them. Raises `CheckpointError` where one is not UTF-8."""
        found, at = [], 0
        for number in range(self.count):
            (length,) = _U64.unpack_from(self.packed, at)
            at += 8 + length
            found.append(_decode(self.packed[at - length : at], f"text {number} of an array"))
        return found


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What one file says about itself. `size` and `mtime_ns` betray a later change of the file."""

    file: str
    size: int
    mtime_ns: int
    metadata: Mapping[str, Any]
    """Numbers, truth values, texts, lists of numbers, `TextArray`s."""
    tensors: Mapping[str, TensorInfo]
    """By the name in the file: `dtype` is ggml's name of the type, `shape` in numbers, slowest side first."""


class _LieError(Exception):
    """Internal: what is wrong with a header, before the file's name is known."""

    def __init__(self, what: str, *, allowed: object = None, got: object = None) -> None:
        self.what, self.allowed, self.got = what, allowed, got
        super().__init__(what)


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file that begins as a GGUF does."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb", buffering=0) as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of one file; the data itself is not touched.

    Raises `CheckpointError` when the file is missing, is no GGUF, is truncated or does not make sense,
    `UnsupportedError` for a version or a type of numbers that is not known.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
            raise _LieError("not a regular file")
        with open(path, "rb", buffering=0) as file:
            cursor = _Cursor(file, status.st_size)
            counts = _begin(cursor, path)
            metadata = _entries(cursor, counts[1])
            tensors = _tensors(cursor, counts[0], path, metadata.get("general.alignment", 32))
    except OSError as error:
        raise CheckpointError(
            "a weight file cannot be read", where=path, got=error.strerror or error
        ) from error
    except _LieError as lie:
        raise CheckpointError(
            lie.what, where=path, allowed=lie.allowed, got=lie.got, todo="Download this file again"
        ) from lie
    return GgufHeader(path.name, status.st_size, status.st_mtime_ns, metadata, tensors)


def read_gguf_metadata(path: Path) -> Mapping[str, Any]:
    """The metadata of one file; raises as `read_gguf_header` does. What was read last is kept."""
    status = os.stat(path)
    return _metadata_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _metadata_of(path: Path, size: int, mtime_ns: int) -> Mapping[str, Any]:
    return read_gguf_header(path).metadata


class _Cursor:
    """Reads forward through a file, a little at a time, and never past its end or the longest header."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.size = file, size
        self.data, self.at = bytearray(), 0

    def take(self, length: int) -> int:
        """Pass over `length` bytes; where they begin in `data`."""
        begin, end = self.at, self.at + length
        if end > self.size:
            raise _LieError(
                "the file is truncated inside its header", allowed=f"at least {end} bytes", got=self.size
            )
        if end > LIMIT:
            raise _LieError("absurdly long header", allowed=f"at most {LIMIT} bytes", got=f"{end} bytes")
        while len(self.data) < end:
            more = self._file.read(max(_STEP, end - len(self.data)))
            if not more:
                raise _LieError("the header came back short", allowed=end, got=len(self.data))
            self.data += more
        self.at = end
        return begin

    def number(self, form: str) -> Any:
        """A number of one of struct's forms."""
        return struct.unpack_from(f"<{form}", self.data, self.take(struct.calcsize(f"<{form}")))[0]

    def text(self, longest: int = LIMIT) -> str:
        length = self.number("Q")
        if length > longest:
            raise _LieError("an absurdly long name", allowed=f"at most {longest} bytes", got=length)
        begin = self.take(length)
        return _decode(bytes(self.data[begin : begin + length]), f"a text at byte {begin}")

    def pass_texts(self, count: int) -> TextArray:
        if count > _MOST_TEXTS:
            raise _LieError("an absurdly long array", allowed=f"at most {_MOST_TEXTS} texts", got=count)
        begin = self.at
        for _ in range(count):
            (length,) = _U64.unpack_from(self.data, self.take(8))
            self.take(length)
        return TextArray(count, bytes(self.data[begin : self.at]))


def _decode(text: bytes, where: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8", got=f"{text[:16]!r}") from error


def _begin(cursor: _Cursor, path: Path) -> tuple[int, int]:
    """(number of tensors, number of metadata entries)."""
    begin = cursor.take(4) if cursor.size >= 4 else None
    magic = bytes(cursor.data[:4]) if begin is not None else b""
    if magic != MAGIC:
        raise CheckpointError("not a GGUF file", where=path, allowed=f"{MAGIC!r} first", got=f"{magic!r}")
    version = cursor.number("I")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        kind = "a big-endian file" if swapped in _VERSIONS else f"version {version}"
        raise UnsupportedError(
            "a GGUF of another kind", where=path, allowed="little-endian GGUF, version 2 or 3", got=kind
        )
    tensors, entries = cursor.number("Q"), cursor.number("Q")
    if tensors > _MOST_TENSORS or entries > _MOST_ENTRIES:
        raise _LieError(
            "the header counts more than any model has",
            allowed=f"at most {_MOST_TENSORS} tensors and {_MOST_ENTRIES} entries",
            got=f"{tensors} and {entries}",
        )
    return tensors, entries


def _entries(cursor: _Cursor, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text(_LONGEST_NAME)
        if key in found:
            raise _LieError(f"the metadata has the key {key!r} twice")
        found[key] = _value(cursor, key, cursor.number("I"))
    return found


def _value(cursor: _Cursor, key: str, kind: int) -> Any:
    if kind == _TEXT:
        return cursor.text()
    if kind == _BOOL:
        return bool(cursor.number("B"))
    if kind in _NUMBERS:
        return cursor.number(_NUMBERS[kind])
    if kind == _ARRAY:
        inner, count = cursor.number("I"), cursor.number("Q")
        if inner == _TEXT:
            return cursor.pass_texts(count)
        if inner in _NUMBERS:
            width = struct.calcsize(f"<{_NUMBERS[inner]}")
            begin = cursor.take(count * width)
            values = struct.unpack_from(f"<{count}{_NUMBERS[inner]}", cursor.data, begin)
            return [bool(value) for value in values] if inner == _BOOL else list(values)
        kind = inner
    raise _LieError(f"the metadata's value of {key!r} is of no known type", got=f"type {kind}")


def _tensors(cursor: _Cursor, count: int, path: Path, alignment: Any) -> dict[str, TensorInfo]:
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
        raise _LieError("senseless general.alignment", allowed=f"1 to {1 << 20}", got=repr(alignment)[:80])
    entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = cursor.text(_LONGEST_NAME)
        if name in entries:
            raise _LieError(f"tensor {name!r} is stored twice", allowed="once")
        entries[name] = _tensor(cursor, name, path)
    start = -(-cursor.at // alignment) * alignment
    found = {}
    for name, (dtype, shape, offset, length) in entries.items():
        if offset % alignment:
            raise _LieError(
                f"tensor {name!r} is not aligned", allowed=f"a multiple of {alignment}", got=offset
            )
        if start + offset + length > cursor.size:
            raise _LieError(
                f"tensor {name!r} reaches past the end of the file: it is truncated, or the header lies",
                allowed=f"at least {start + offset + length} bytes",
                got=f"{cursor.size} bytes",
            )
        found[name] = TensorInfo(path.name, dtype, shape, start + offset, length)
    _check_apart(found)
    return found


def _tensor(cursor: _Cursor, name: str, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """(type's name, shape, offset, length in bytes)."""
    dimensions = cursor.number("I")
    if not 1 <= dimensions <= 4:
        raise _LieError(f"tensor {name!r} has a senseless number of sides", allowed="1 to 4", got=dimensions)
    sides = [cursor.number("Q") for _ in range(dimensions)]
    number, offset = cursor.number("I"), cursor.number("Q")
    if number not in TYPES:
        raise UnsupportedError(
            f"tensor {name!r} is of a ggml type that locum does not know",
            where=path,
            allowed=", ".join(kind.name for kind in TYPES.values()),
            got=f"type {number}",
        )
    kind = TYPES[number]
    if not all(sides) or sides[0] % kind.elements:
        raise _LieError(
            f"the shape of tensor {name!r} makes no sense",
            allowed=f"rows of a multiple of {kind.elements} numbers in {kind.name}",
            got=sides[::-1],
        )
    length = kind.bytes
    for side in (sides[0] // kind.elements, *sides[1:]):
        length *= side
    return kind.name, tuple(reversed(sides)), offset, length


def _check_apart(tensors: Mapping[str, TensorInfo]) -> None:
    end, before = 0, ""
    for name, info in sorted(tensors.items(), key=lambda item: item[1].offset):
        if info.offset < end:
            raise _LieError(
                "two tensors overlap", allowed="each byte in one tensor", got=f"{before!r} and {name!r}"
            )
        end, before = info.offset + info.length, name

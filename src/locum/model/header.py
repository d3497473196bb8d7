"""The header of one safetensors file: which tensors it holds and where their bytes lie. Reads no weights.

The format (safetensors 0.x): 8 bytes, the header's length as a little-endian number; the header, a JSON
object from tensor name to `{"dtype", "shape", "data_offsets": [begin, end]}` with an optional
`"__metadata__"` from text to text; then the data, which the tensors cover without holes or overlaps up to the
last byte.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from locum.errors import CheckpointError

LIMIT = 100_000_000
"""The longest header, in bytes, that the format allows; also the bound on every other JSON file we read."""

_U64 = (1 << 64) - 1

BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits per element of each dtype of the format."""


TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
"""torch's names of the dtypes, by those in a header; those that torch cannot compute with left out."""


class TensorInfo(NamedTuple):
    """One stored tensor: `length` bytes at absolute `offset` of `file` (a name inside the model's folder)."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """What one file says about itself. `size` and `mtime_ns` betray a later change of the file."""

    file: str
    size: int
    mtime_ns: int
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


class _LieError(Exception):
    """Internal: what is wrong with a header, before the file's name is known."""

    def __init__(self, what: str, *, allowed: object = None, got: object = None) -> None:
        self.what, self.allowed, self.got = what, allowed, got
        super().__init__(what)


def read_header(path: Path) -> Header:
    """Read and check the header of one file; the data itself is not touched.

    Raises `CheckpointError` naming file, tensor, wanted and got when the file is missing, truncated or its
    header does not describe exactly the bytes that are there.
    """
    try:
        size, mtime_ns, text = _read_bytes(path)
        document = _parse(text)
        metadata = _metadata(document.pop("__metadata__", None))
        tensors = _tensors(path.name, document, start=8 + len(text), size=size)
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError("a weight file cannot be read", where=path, got=reason) from error
    except _LieError as lie:
        raise CheckpointError(
            lie.what, where=path, allowed=lie.allowed, got=lie.got, todo="Download this file again"
        ) from lie
    return Header(file=path.name, size=size, mtime_ns=mtime_ns, tensors=tensors, metadata=metadata)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object hook (`object_pairs_hook`) that refuses a key given twice. Raises `ValueError`."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} twice")
    return found


def _read_bytes(path: Path) -> tuple[int, int, bytes]:
    """(file size, mtime in ns, header bytes)."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
        raise _LieError("not a regular file")
    with open(path, "rb", buffering=0) as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise _LieError("the file is truncated", allowed="at least 8 bytes", got=f"{len(prefix)} bytes")
        length = int.from_bytes(prefix, "little")
        if length > LIMIT:
            raise _LieError("absurd header length", allowed=f"at most {LIMIT} bytes", got=f"{length} bytes")
        if 8 + length > status.st_size:
            raise _LieError(
                "the file is truncated inside its header",
                allowed=f"at least {8 + length} bytes",
                got=f"{status.st_size} bytes",
            )
        text = file.read(length)
    if len(text) < length:
        raise _LieError("the header came back short", allowed=f"{length} bytes", got=f"{len(text)} bytes")
    return status.st_size, status.st_mtime_ns, text


def _parse(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _LieError("the header is not JSON", allowed="a JSON object", got=f"{text[:16]!r}")
    try:
        document = json.loads(
            text.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_no_constant
        )
        if b"\\u" in text:  # half of a surrogate pair is no text
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _LieError("the header is not valid JSON", allowed="one JSON object", got=error) from error
    if not isinstance(document, dict):
        raise _LieError("the header is not an object", allowed="a JSON object", got=type(document).__name__)
    return document


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _LieError(
            "bad __metadata__ in the header", allowed="an object from text to text", got=ascii(value)[:80]
        )
    return value


def _tensors(file: str, document: dict[str, Any], *, start: int, size: int) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for name, entry in document.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            _bad_entry(name, entry)
        if len(entry) != 3:
            _bad_entry(name, entry)
        numbers = (*shape, begin, end) if isinstance(shape, list) else (None,)
        if not all(type(number) is int and 0 <= number <= _U64 for number in numbers):
            _bad_entry(name, entry)
        _check_length(name, dtype, shape, begin, end)
        found[name] = TensorInfo(file, dtype, tuple(shape), start + begin, end - begin)
    _check_cover(found, start, size)
    return found


def _bad_entry(name: str, entry: object) -> NoReturn:
    raise _LieError(
        f"the header's entry for tensor {name!r} is malformed",
        allowed="dtype, shape and two data_offsets and no more, all numbers whole and not negative",
        got=ascii(entry)[:120],
    )


def _check_length(name: str, dtype: object, shape: list[int], begin: int, end: int) -> None:
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _LieError(f"unknown dtype of tensor {name!r}", allowed=", ".join(BITS), got=ascii(dtype)[:40])
    for side in shape:
        bits *= side
        if bits > _U64:
            raise _LieError(f"tensor {name!r} has more elements than any file", got=f"shape {shape}")
    if bits % 8 or bits // 8 != end - begin:
        raise _LieError(
            f"shape and length of tensor {name!r} disagree",
            allowed=f"{bits / 8:g} bytes for {dtype} {shape}",
            got=f"data_offsets [{begin}, {end}]",
        )


def _check_cover(tensors: dict[str, TensorInfo], start: int, size: int) -> None:
    """The tensors lie one after the other, from the end of the header to the end of the file."""
    reached = start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].length)):
        if info.offset != reached:
            kind = "overlaps the one before it" if info.offset < reached else "leaves a hole before it"
            raise _LieError(
                f"tensor {name!r} {kind}",
                allowed=f"offset {reached - start}",
                got=f"offset {info.offset - start}",
            )
        reached += info.length
        if reached > size:
            raise _LieError(
                f"the file is truncated inside tensor {name!r}",
                allowed=f"at least {reached} bytes",
                got=f"{size} bytes",
            )
    if reached != size:
        raise _LieError("bytes after the last tensor", allowed=f"{reached} bytes", got=f"{size} bytes")

"""Numbered parquet files of one kind: written whole or not at all, read in order."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from locum.errors import LocumError, TraceError

WRITING: dict[str, Any] = {
    "compression": "zstd", "compression_level": 1, "write_statistics": False, "write_page_checksum": True,
}  # fmt: skip
_BROKEN = (OSError, ValueError, pa.ArrowException)
"""What pyarrow raises for damaged files; a name that is no UTF-8 is a ValueError."""
_NAME = re.compile(r"(part|steps|events)-(\d{5})\.parquet")


def write_part(folder: Path, kind: str, number: int, table: pa.Table) -> Path:
    """Write one part, synced before it gets its name.

    Raises `LocumError` when the disk is full; what was closed before stays as it is.
    """
    path = folder / f"{kind}-{number:05d}.parquet"
    temporary = folder / f".{path.name}.part"
    try:
        with open(temporary, "wb") as file:
            pq.write_table(table, file, **WRITING)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(folder)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            todo = "What was recorded before is there and can be read"
            raise LocumError("the disk is full", where=path, todo=todo) from error
        raise
    return path


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_parts(folder: Path, kind: str) -> list[Path]:
    """The closed parts of one kind, in order. Raises `TraceError` when one is missing in between."""
    found = sorted(
        (int(match[2]), path)
        for path in folder.iterdir()
        if (match := _NAME.fullmatch(path.name)) and match[1] == kind
    )
    for expected, (number, path) in enumerate(found):
        if number != expected:
            raise TraceError(
                "a part is missing", where=folder, allowed=f"{kind}-{expected:05d}.parquet", got=path.name
            )
    return [path for _, path in found]


def open_part(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    """A part that has this schema, to read. Raises `TraceError` when it is damaged or another one."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        schema_found = file.schema_arrow
    except _BROKEN as error:
        raise _damaged(path, error) from error
    if not schema_found.equals(schema):
        mine, wanted = (
            dict(zip(schema_found.names, schema_found.types, strict=True)),
            dict(zip(schema.names, schema.types, strict=True)),
        )
        raise TraceError(
            "the columns are not those that the meta announces", where=path,
            allowed=_beyond(wanted, mine), got=_beyond(mine, wanted),
        )  # fmt: skip
    return file


def batches_of(
    file: pq.ParquetFile, path: Path, size: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The batches of a part. Raises `TraceError` when its data is damaged."""
    batches = file.iter_batches(batch_size=size, columns=list(columns))
    while True:
        try:
            batch = next(batches, None)
        except _BROKEN as error:
            raise _damaged(path, error) from error
        if batch is None:
            return
        yield batch


def _beyond(these: dict[str, pa.DataType], others: dict[str, pa.DataType]) -> str:
    """Those columns that the others lack or have in another type."""
    return (
        ", ".join(f"{n} ({t})" for n, t in these.items() if n not in others or others[n] != t)
        or "none of them"
    )


def _damaged(path: Path, error: Any) -> TraceError:
    todo = "To use what lies before, remove this part and those after it"
    if path.name.startswith("part-"):  # the meta of a finished trace knows how many rows there are
        todo += ', and write "rows": null in meta.json'
    return TraceError("a part is damaged or cut short", where=path, got=error, todo=todo)

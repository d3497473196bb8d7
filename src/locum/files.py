"""Files are written whole or not at all."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from locum.errors import LocumError, UsageError
from locum.units import format_bytes


def write_text(path: Path, text: str) -> None:
    """Write `path` under a temporary name beside it, then rename: readers see the old file, the new or none.

    Missing folders are made. Raises `OSError`; then nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(temporary, 0o644)  # temporary files are private, these are not
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, document: Any, *, indent: int | None = None) -> None:
    """`write_text` of a JSON document; without `indent` as short as can be."""
    separators = (",", ":") if indent is None else None
    write_text(path, json.dumps(document, indent=indent, separators=separators) + "\n")


@contextmanager
def new_folder(target: Path, peak_bytes: int) -> Iterator[Path]:
    """A folder to fill that becomes `target` when the block ends well, and is gone when it does not.

    `peak_bytes` must be free before anything is made. Raises `UsageError` when `target` exists, be it as a
    link to nowhere, or cannot be made; `LocumError` when the disk is too full, then or on the way. When the
    finished folder cannot get its name, because somebody has made a `target` meanwhile, it stays under the
    other one, which the `LocumError` says.
    """
    folder = _beside(target, peak_bytes)
    try:
        folder.chmod(0o755)
        yield folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise LocumError(
                "the disk is full",
                where=target.parent,
                todo="Nothing was left behind: free some space, try again",
            ) from error
        raise
    try:
        folder.rename(target)
    except OSError as error:
        raise LocumError(
            f"all is written, but cannot be named {target.name!r}",
            where=target.parent,
            got=error.strerror or error,
            todo=f"Nothing is lost: rename {folder} yourself",
        ) from error


def require_new(target: Path) -> None:
    """Raises `UsageError` when `target` exists, be it as a link to nowhere, or lies below a file."""
    if os.path.lexists(target):
        raise UsageError("the target exists", where=target, todo="Remove it or name another one")
    above = next(parent for parent in target.absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        got = f"{above}, which is no folder"
        raise UsageError("the target cannot be made", where=target, got=got, todo="Name another one")


def _beside(target: Path, peak_bytes: int) -> Path:
    """An empty folder beside `target`, on the same file system."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        require_new(target)  # now, because `new/..` did not exist before
        free = shutil.disk_usage(target.parent).free
        if free < peak_bytes:
            raise LocumError(
                "not enough disk space",
                where=target.parent,
                allowed=f"{format_bytes(peak_bytes)} free at the peak",
                got=format_bytes(free),
                todo="Free some space, choose another folder, or ask for less",
            )
        return Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    except OSError as error:
        raise UsageError(
            "the target cannot be made", where=target, got=error.strerror or error, todo="Name another one"
        ) from error


def settle(file: BinaryIO) -> None:
    """Bring a written file to the disk, and leave the page cache to others."""
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

"""Direct-read rate of the file system that holds a path: random blocks of a big file, a few threads."""

import contextlib
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from locum.errors import LocumError
from locum.machine.pages import PAGE, Pages
from locum.units import GIB, MIB, format_bytes

BLOCK_BYTES = 8 * MIB
THREADS = 2
_FILE_BYTES = 512 * MIB
"""Size of the temporary file written when there is no big file to read."""


@dataclass(frozen=True, slots=True)
class DiskRate:
    """`bytes_s` read in random blocks of `block` bytes by `threads`, past the page cache or not."""

    bytes_s: float
    block: int
    threads: int
    mode: Literal["direct", "buffered"]


def measure_disk(
    path: Path, *, block: int = BLOCK_BYTES, threads: int = THREADS, seconds: float = 2.0
) -> DiskRate:
    """Read random blocks for about `seconds` and tell the rate.

    `path` is a file to read, or a folder: then its biggest file is read (a checkpoint's shards serve), and
    where none holds at least 32 blocks, a temporary file of random bytes is written there first and removed.
    Buffered reads, whose pages are dropped before and after, stand in where direct I/O is refused. Raises
    `LocumError` when there is nothing to read and nothing can be written.
    """
    with contextlib.ExitStack() as stack:
        target = _big_file(path, 32 * block) or stack.enter_context(_temporary_file(path, block))
        descriptor, mode = _open(target)
        stack.callback(os.close, descriptor)
        if mode == "buffered":
            os.fsync(descriptor)
            _forget(descriptor)
        blocks = max(1, os.fstat(descriptor).st_size // block)
        offsets = _shuffled(blocks, block)
        moved, elapsed = _Race(descriptor, offsets, block, drop=mode == "buffered").run(threads, seconds)
        if mode == "buffered":
            _forget(descriptor)
    return DiskRate(moved / elapsed, block, threads, mode)


def _big_file(path: Path, at_least: int) -> Path | None:
    if path.is_file():
        return path if path.stat().st_size >= at_least else None
    if not path.is_dir():
        return None
    sizes = [(entry.stat().st_size, entry.path) for entry in os.scandir(path) if entry.is_file()]
    size, name = max(sizes, default=(0, ""))
    return Path(name) if size >= at_least else None


@contextlib.contextmanager
def _temporary_file(path: Path, block: int) -> Iterator[Path]:
    """Random bytes, because some disks store zeros for nothing. At most a quarter of the free space."""
    folder = path if path.is_dir() else path.parent
    try:
        space = os.statvfs(folder)
        size = min(_FILE_BYTES, space.f_bavail * space.f_frsize // 4) // block * block
        if not size:
            raise OSError(f"only {format_bytes(space.f_bavail * space.f_frsize)} are free")
        handle, name = tempfile.mkstemp(prefix=".locum-disk-", dir=folder)
    except OSError as error:
        raise LocumError(
            "the disk cannot be measured: there is no big file to read and none can be written",
            where=folder,
            got=error,
        ) from error
    try:
        with os.fdopen(handle, "wb") as out:
            rng = np.random.SFC64()
            for _ in range(size // block):
                out.write(rng.random_raw(block // 8).data)
            out.flush()
            os.fsync(out.fileno())
        yield Path(name)
    finally:
        os.unlink(name)


def _open(path: Path) -> tuple[int, Literal["direct", "buffered"]]:
    if hasattr(os, "O_DIRECT"):
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
            os.preadv(descriptor, [Pages(PAGE).memory[:PAGE]], 0)
            return descriptor, "direct"
        except OSError:
            if descriptor >= 0:
                os.close(descriptor)
    return os.open(path, os.O_RDONLY), "buffered"


def _forget(descriptor: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _shuffled(blocks: int, block: int) -> Iterator[int]:
    """Block offsets in random order, each once before any comes again."""
    rng = random.Random()  # noqa: S311
    order = list(range(min(blocks, GIB // PAGE)))
    while True:
        rng.shuffle(order)
        for number in order:
            yield number * block


class _Race:
    """Threads that read the blocks at `offsets` from one descriptor until the time is up."""

    def __init__(self, descriptor: int, offsets: Iterator[int], block: int, *, drop: bool) -> None:
        self._descriptor, self._offsets, self._block, self._drop = descriptor, offsets, block, drop
        self._lock = threading.Lock()
        self._bytes = 0
        self._error: OSError | None = None

    def run(self, threads: int, seconds: float) -> tuple[int, float]:
        """(bytes read, seconds it took)."""
        begun = time.perf_counter()
        team = [
            threading.Thread(target=self._read, args=(begun + seconds,), daemon=True) for _ in range(threads)
        ]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        elapsed = time.perf_counter() - begun
        if self._error is not None or not self._bytes:
            raise LocumError("the disk cannot be measured", got=self._error or "no bytes") from self._error
        return self._bytes, elapsed

    def _read(self, deadline: float) -> None:
        buffer = Pages(self._block).memory[: self._block]
        while True:
            with self._lock:
                offset = next(self._offsets)
            try:
                got = os.preadv(self._descriptor, [buffer], offset)
            except OSError as error:
                self._error = error
                return
            if self._drop and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._descriptor, offset, self._block, os.POSIX_FADV_DONTNEED)
            with self._lock:
                self._bytes += got
            if time.perf_counter() >= deadline:
                return

"""Direct-read rate of the file system that holds a path: random blocks of a big file, a few threads."""

import contextlib
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from locum.errors import LocumError
from locum.machine.pages import PAGE, Pages
from locum.units import GIB, MIB, format_bytes

BLOCK_BYTES = 8 * MIB
THREADS = 2
SECONDS = 2.0
_FILE_BYTES = 512 * MIB
"""Size of the temporary file written when there is no big file to read."""


@dataclass(frozen=True, slots=True)
class DiskRate:
    """`bytes_s` read in random blocks of `block` bytes by `threads`, past the page cache or not."""

    bytes_s: float
    block: int
    threads: int
    mode: Literal["direct", "buffered"]


class Source:
    """An open file of `size` bytes that is read to find out how fast its disk is. See `opened`."""

    def __init__(self, descriptor: int, mode: Literal["direct", "buffered"]) -> None:
        self.descriptor, self.mode = descriptor, mode
        self.size = os.fstat(descriptor).st_size

    def race(self, buffers: Sequence[memoryview], seconds: float) -> tuple[int, float]:
        """(bytes read, seconds it took): random blocks, one thread for each of `buffers`, each of one block.

        Each block of the file is read once before any comes again. Raises `LocumError` when a read fails.
        """
        block = len(buffers[0])
        offsets = _shuffled(max(1, self.size // block), block)
        return _Race(self.descriptor, offsets, block, drop=self.mode == "buffered").run(buffers, seconds)


@contextlib.contextmanager
def opened(path: Path, block: int = BLOCK_BYTES) -> Iterator[Source]:
    """A file on the disk under `path`, open for reading as `measure_disk` chooses and opens it.

    A temporary file is written once, whatever is measured with it. Its name is removed as soon as it is open,
    so that it goes even when this process is killed.
    """
    big = _big_file(path, 32 * block)
    with contextlib.ExitStack() as stack:
        with _temporary_file(path, block) if big is None else contextlib.nullcontext(big) as target:
            descriptor, mode = _open(target)
        stack.callback(os.close, descriptor)
        if mode == "buffered":
            os.fsync(descriptor)
            _forget(descriptor)
            stack.callback(_forget, descriptor)
        yield Source(descriptor, mode)


def measure_disk(
    path: Path, *, block: int = BLOCK_BYTES, threads: int = THREADS, seconds: float = SECONDS
) -> DiskRate:
    """Read random blocks for about `seconds` and tell the rate.

    `path` is a file to read, or a folder: then its biggest file is read (a checkpoint's shards serve), and
    where none holds at least 32 blocks, a temporary file of random bytes is written there first and removed.
    Buffered reads, whose pages are dropped before and after, stand in where direct I/O is refused. Raises
    `LocumError` when there is nothing to read and nothing can be written.
    """
    with opened(path, block) as source:
        return one_rate(source, block=block, threads=threads, seconds=seconds)


def one_rate(
    source: Source, *, block: int = BLOCK_BYTES, threads: int = THREADS, seconds: float = SECONDS
) -> DiskRate:
    """`measure_disk` of a file that is open already."""
    moved, elapsed = source.race([Pages(block).memory[:block] for _ in range(threads)], seconds)
    return DiskRate(moved / elapsed, block, threads, source.mode)


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
    """Block offsets in random order, each once before any comes again.

    Shuffled as they are given (Fisher and Yates), because shuffling all at first would count as reading.
    """
    rng = random.Random()  # noqa: S311
    order = list(range(min(blocks, GIB // PAGE)))
    while True:
        for place in range(len(order)):
            other = rng.randrange(place, len(order))
            order[place], order[other] = order[other], order[place]
            yield order[place] * block


class _Race:
    """Threads that read the blocks at `offsets` from one descriptor until the time is up."""

    def __init__(self, descriptor: int, offsets: Iterator[int], block: int, *, drop: bool) -> None:
        self._descriptor, self._offsets, self._block, self._drop = descriptor, offsets, block, drop
        self._lock = threading.Lock()
        self._bytes = 0
        self._error: OSError | None = None

    def run(self, buffers: Sequence[memoryview], seconds: float) -> tuple[int, float]:
        """(bytes read, seconds it took), one thread for each buffer."""
        begun = time.perf_counter()
        team = [
            threading.Thread(target=self._read, args=(buffer, begun + seconds), daemon=True)
            for buffer in buffers
        ]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        elapsed = time.perf_counter() - begun
        if self._error is not None or not self._bytes:
            raise LocumError("the disk cannot be measured", got=self._error or "no bytes") from self._error
        return self._bytes, elapsed

    def _read(self, buffer: memoryview, deadline: float) -> None:
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

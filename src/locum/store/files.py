"""Open checkpoint files: identity checks, and the one place where bytes are read."""

import errno
import os
from collections.abc import Sequence

from locum.errors import CheckpointError, LoadError
from locum.machine.pages import PAGE, Pages
from locum.store.index import FileId

_REFUSALS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_FETCH = "Fetch the checkpoint again"


class DirectIORefusedError(Exception):
    """The file system does not offer direct I/O on `path`."""

    def __init__(self, path: str, reason: object) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


def raw_open(path: str, flags: int) -> int:
    """`os.open`, here so that tests can refuse it."""
    return os.open(path, flags)


def raw_read(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read at `offset` into `buffer`; how many bytes came. The only read in the room; frees the GIL."""
    return os.preadv(descriptor, [buffer], offset)


def _verify(file: FileId, found: os.stat_result) -> None:
    for name, want, got in (
        ("size", file.size, found.st_size),
        ("modification time (ns)", file.mtime_ns, found.st_mtime_ns),
    ):
        if want != got:
            raise CheckpointError(
                f"a checkpoint file changed since it was indexed, by its {name}",
                where=file.path,
                allowed=want,
                got=got,
                todo="Open the model again so that its index is rebuilt",
            )


class Files:
    """The files of an index, open for reading; descriptors go on working when a file is unlinked.

    Raises `CheckpointError` when a file is missing, unreadable or not the one the index describes, and
    `DirectIORefusedError` when `direct` is asked for and not to be had.
    """

    def __init__(self, files: Sequence[FileId], *, direct: bool) -> None:
        self._files, self._direct = tuple(files), direct
        self._descriptors: list[int] = []
        self._granule = PAGE if direct else 1
        try:
            for file in self._files:
                self._open(file)
            if direct:
                self._probe()
        except BaseException:
            self.close()
            raise

    def _open(self, file: FileId) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        if self._direct:
            if not hasattr(os, "O_DIRECT"):
                raise DirectIORefusedError(file.path, "this system has no O_DIRECT")
            flags |= os.O_DIRECT
        try:
            _verify(file, os.stat(file.path))
            self._descriptors.append(raw_open(file.path, flags))
        except OSError as error:
            if self._direct and error.errno in _REFUSALS:
                raise DirectIORefusedError(file.path, error.strerror) from error
            raise CheckpointError(
                "a checkpoint file cannot be opened", where=file.path, got=error.strerror, todo=_FETCH
            ) from error
        _verify(file, os.fstat(self._descriptors[-1]))

    def _probe(self) -> None:
        """Some file systems accept O_DIRECT and refuse the read: try one block on each device."""
        page, tried = Pages(PAGE), set()
        for file, descriptor in zip(self._files, self._descriptors, strict=True):
            device = os.fstat(descriptor).st_dev
            if device in tried or not file.size:
                continue
            tried.add(device)
            try:
                raw_read(descriptor, page.memory[:PAGE], 0)
            except OSError as error:
                if error.errno in _REFUSALS:
                    raise DirectIORefusedError(file.path, error.strerror) from error
                raise CheckpointError(
                    "a checkpoint file cannot be read", where=file.path, got=error.strerror
                ) from error

    def read(self, number: int, buffer: memoryview, offset: int, need: int) -> tuple[int, int]:
        """Fill the first `need` bytes of `buffer` from `offset` of file `number`; more may be filled.

        With direct I/O, `offset` and the buffer's length and address are multiples of 4096. A read that stops
        short is continued as long as it gets on. Returns (bytes asked for, reads). Raises `LoadError`.
        """
        done = asked = reads = 0
        while True:
            rest = buffer[done:]
            try:
                end = done + raw_read(self._descriptors[number], rest, offset + done)
            except OSError as error:
                raise self._failure(number, offset, need, f"{error.strerror} after {done} bytes") from error
            asked, reads = asked + len(rest), reads + 1
            if end >= need:
                return asked, reads
            whole = end - end % self._granule
            if whole <= done:
                raise self._failure(number, offset, need, f"{end} bytes, then the end of the file")
            done = whole

    def _failure(self, number: int, offset: int, need: int, got: str) -> LoadError:
        return LoadError(
            "expert weights could not be read",
            where=f"{self._files[number].path} at byte {offset}",
            allowed=f"{need} bytes",
            got=got,
            todo="Check that the checkpoint is whole and that its disk is well",
        )

    def forget(self, number: int, offset: int, length: int) -> None:
        """Drop the page-cache pages of this range, edges included: the arena is the cache."""
        if hasattr(os, "posix_fadvise"):
            low = offset - offset % PAGE
            os.posix_fadvise(self._descriptors[number], low, offset + length - low, os.POSIX_FADV_DONTNEED)

    def expect_random(self) -> None:
        """Tell the system not to read ahead: what it would fetch is dropped unread."""
        if hasattr(os, "posix_fadvise"):
            for descriptor in self._descriptors:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def close(self) -> None:
        """Close every file. Idempotent."""
        while self._descriptors:
            os.close(self._descriptors.pop())

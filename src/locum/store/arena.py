"""The arena: the memory that expert slots are cut from."""

import ctypes

from locum.machine.pages import HUGE_PAGE, Pages


class Arena:
    """One reserved range of `size` bytes (rounded up to 2 MiB), committed and given back in 2 MiB pages.

    Offsets are in bytes from the arena's start. `memory` is a writable buffer over the whole range: view it
    with `torch.frombuffer` or `numpy.frombuffer`. A committed page costs memory only once something is read
    into it.
    Raises `BudgetError` when the system refuses the range.
    """

    def __init__(self, size: int) -> None:
        self._pages = Pages(size)
        self._committed = bytearray(self._pages.size // HUGE_PAGE)
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes reserved."""
        return self._pages.size

    @property
    def memory(self) -> memoryview:
        """The whole range, writable. Touch only what is committed: the rest would be used but not counted."""
        return self._pages.memory

    @property
    def committed_bytes(self) -> int:
        """Bytes committed: what the arena may occupy at most."""
        return sum(self._committed) * HUGE_PAGE

    def _range(self, offset: int, length: int) -> slice:
        assert not self._closed, "the arena is closed"
        assert (offset | length) % HUGE_PAGE == 0, "the arena is committed in 2 MiB pages"
        assert 0 <= offset <= offset + length <= self.size, "outside the arena"
        return slice(offset // HUGE_PAGE, (offset + length) // HUGE_PAGE)

    def commit(self, offset: int, length: int) -> None:
        """Allow [offset, offset + length) to be used. Multiples of 2 MiB; pages committed already stay so."""
        pages = self._range(offset, length)
        self._committed[pages] = b"\1" * (pages.stop - pages.start)

    def decommit(self, offset: int, length: int) -> None:
        """Give [offset, offset + length) back to the system. Multiples of 2 MiB; the bytes are lost."""
        pages = self._range(offset, length)
        self._pages.release(offset, length)
        self._committed[pages] = bytes(pages.stop - pages.start)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy `length` bytes between two places; they may overlap. Releases the interpreter lock."""
        assert not self._closed, "the arena is closed"
        assert min(source, target, length) >= 0, "outside the arena"
        assert max(source, target) + length <= self.size, "outside the arena"
        ctypes.memmove(self._pages.address + target, self._pages.address + source, length)

    def huge_bytes(self) -> int | None:
        """Bytes that really lie on huge pages now (compare with what has been read); None off Linux."""
        return self._pages.huge_bytes()

    def close(self) -> None:
        """Give every page back. Idempotent. Views still held read zeros; the range goes with the last one."""
        if not self._closed:
            self._closed = True
            self._pages.release(0, self.size)
            self._committed = bytearray(len(self._committed))

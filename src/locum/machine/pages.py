"""Reserved memory: private, anonymous, 2 MiB aligned, on huge pages where the system grants them.

Huge pages make direct reads 1.4 to 2 times faster and halve their processor cost, because one request then
needs far fewer memory segments. Python's default `mmap.mmap(-1, n)` is shared memory and never gets them.
"""

import ctypes
import mmap
import platform
import sys
from pathlib import Path

from locum.errors import BudgetError
from locum.units import MIB, format_bytes

PAGE = 4096
HUGE_PAGE = 2 * MIB

# The constant reached Python's mmap module late; the value holds for these machines.
_COMMON_MACHINE = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64", "riscv64")
_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if _COMMON_MACHINE else 0)


class Pages:
    """A reserved range of `size` bytes (rounded up to 2 MiB). Nothing is used until it is touched.

    `memory` is a writable buffer that numpy and torch can view; `address` is where it begins. The range stays
    mapped as long as anybody holds `memory` or a view of it, so a late view reads zeros and never crashes.
    `huge=False` asks for ordinary pages, to compare with. Raises `BudgetError` when the system refuses the
    range.
    """

    def __init__(self, size: int, *, huge: bool = True) -> None:
        assert size > 0, "an empty reservation"
        self.size = -(-size // HUGE_PAGE) * HUGE_PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        try:
            # 2 MiB more than asked: room to align, and a gap that keeps two ranges apart in smaps.
            self._map = mmap.mmap(-1, self.size + HUGE_PAGE, flags=flags)
        except (OSError, OverflowError) as error:
            raise BudgetError(
                "the system refused to reserve memory",
                got=f"{format_bytes(self.size)}: {error}",
                minimum=self.size,
            ) from error
        first = ctypes.c_char.from_buffer(self._map)
        base = ctypes.addressof(first)
        del first
        self._skip = -base % HUGE_PAGE
        self.address = base + self._skip
        self.memory: memoryview = memoryview(self._map)[self._skip : self._skip + self.size]
        self._advise("MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", 0, self.size)
        # open(2): direct reads into private memory must not meet a fork(); children have no use for it.
        self._advise("MADV_DONTFORK", 0, self.size)

    def _advise(self, name: str, offset: int, length: int) -> None:
        option = getattr(mmap, name, None)
        if option is None:
            return
        try:
            self._map.madvise(option, self._skip + offset, length)
        except OSError:
            if name == "MADV_DONTNEED":
                raise  # the others are advice; this one gives memory back

    def release(self, offset: int, length: int) -> None:
        """Give the pages of [offset, offset + length) back to the system; they read as zeros afterwards."""
        assert (offset | length) % PAGE == 0, "whole pages only"
        assert 0 <= offset <= offset + length <= self.size, "outside the range"
        if length:
            self._advise("MADV_DONTNEED", offset, length)

    def huge_bytes(self) -> int | None:
        """Bytes of this range that lie on huge pages now; None where the system does not tell."""
        return huge_bytes(self.address, self.size)


def huge_bytes(address: int, length: int, smaps: Path = Path("/proc/self/smaps")) -> int | None:
    """`AnonHugePages` in bytes, summed over the mappings that touch [address, address + length).

    None where there is no such file, or where it does not know the range.
    """
    try:
        lines = smaps.read_text(errors="replace").splitlines()
    except OSError:
        return None
    total, inside, seen = 0, False, False
    for line in lines:
        head = line.split(maxsplit=1)[0] if line.strip() else ""
        if head.endswith(":"):
            if inside and head == "AnonHugePages:":
                total, seen = total + int(line.split()[1]) * 1024, True
        elif "-" in head:
            low, high = (int(part, 16) for part in head.split("-"))
            inside = low < address + length and address < high
    return total if seen else None

"""The arena: alignment, committing and giving back, moves, views that outlive it, huge pages."""

import ctypes
import gc
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import BudgetError
from locum.machine.limits import current_rss
from locum.machine.pages import HUGE_PAGE, Pages, huge_bytes
from locum.store.arena import Arena

MIB = 1 << 20


def test_aligned_writable_and_viewable() -> None:
    arena = Arena(3 * MIB)
    assert arena.size == 4 * MIB
    assert len(arena.memory) == arena.size
    view = np.frombuffer(arena.memory, np.uint8)
    assert view.ctypes.data % HUGE_PAGE == 0
    view[5] = 7
    assert arena.memory[5] == 7
    arena.close()


def test_reserving_costs_nothing_and_touching_does() -> None:
    size = 64 * MIB
    before = current_rss()
    arena = Arena(1 << 40)  # far more than the machine has
    assert current_rss() - before < 8 * MIB
    arena.commit(0, size)
    np.frombuffer(arena.memory, np.uint8)[:size] = 1
    touched = current_rss()
    assert touched - before > size * 0.9
    arena.decommit(0, size)
    assert touched - current_rss() > size * 0.9
    assert not np.frombuffer(arena.memory, np.uint8)[:size:4096].any(), "given back, so zeros"
    arena.close()


def test_committed_bytes_follow_the_pages() -> None:
    arena = Arena(20 * MIB)
    arena.commit(2 * MIB, 8 * MIB)
    arena.commit(4 * MIB, 2 * MIB)  # again: nothing changes
    assert arena.committed_bytes == 8 * MIB
    arena.decommit(8 * MIB, 4 * MIB)
    assert arena.committed_bytes == 6 * MIB
    arena.close()
    assert arena.committed_bytes == 0


@pytest.mark.parametrize(
    ("offset", "length"), [(1, 2 * MIB), (0, 4096), (-2 * MIB, 2 * MIB), (2 * MIB, 4 * MIB)]
)
def test_ranges_are_checked(offset: int, length: int) -> None:
    arena = Arena(4 * MIB)
    for call in (arena.commit, arena.decommit):
        with pytest.raises(AssertionError):
            call(offset, length)


@given(data=st.data())
def test_moves_like_a_bytearray(data: st.DataObject) -> None:
    size = 2 * MIB
    arena = Arena(size)
    arena.commit(0, size)
    twin = bytearray(random.Random(3).randbytes(size))
    arena.memory[:] = twin
    for _ in range(data.draw(st.integers(1, 4))):
        length = data.draw(st.integers(0, size))
        src, dst = (data.draw(st.integers(0, size - length)) for _ in range(2))
        arena.move(src, dst, length)
        twin[dst : dst + length] = twin[src : src + length]
    assert arena.memory == twin


@pytest.mark.parametrize(("src", "dst", "length"), [(-1, 0, 1), (0, -1, 1), (0, 0, -1), (1, 0, 2 * MIB)])
def test_moves_stay_inside(src: int, dst: int, length: int) -> None:
    with pytest.raises(AssertionError):
        Arena(2 * MIB).move(src, dst, length)


def test_views_outlive_the_arena() -> None:
    arena = Arena(2 * MIB)
    arena.commit(0, 2 * MIB)
    view = np.frombuffer(arena.memory, np.uint8)
    view[:] = 9
    arena.close()
    arena.close()
    assert not view.any()
    address = view.ctypes.data
    del arena
    gc.collect()
    assert view[123] == 0  # still mapped
    view[123] = 1
    assert ctypes.c_ubyte.from_address(address + 123).value == 1


def test_nothing_works_after_closing() -> None:
    arena = Arena(2 * MIB)
    arena.close()
    for call in (lambda: arena.commit(0, 0), lambda: arena.decommit(0, 0), lambda: arena.move(0, 0, 0)):
        with pytest.raises(AssertionError):
            call()


def test_a_refused_reservation_is_typed() -> None:
    with pytest.raises(BudgetError, match="reserve") as caught:
        Arena(1 << 60)
    assert caught.value.minimum == 1 << 60


SMAPS = """\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Size:               4096 kB
AnonHugePages:      2048 kB
VmFlags: rd wr
7f0000400000-7f0000800000 rw-p 00000000 00:00 0  [anon: something-else]
AnonHugePages:      4096 kB
7f0000800000-7f0000c00000 r-xp 00000000 fe:00 12 /usr/lib/x-y.so
AnonHugePages:         0 kB
"""


@pytest.mark.parametrize(
    ("address", "length", "want"),
    [
        (0x7F0000000000, 4 * MIB, 2 * MIB),
        (0x7F0000200000, 4 * MIB, 6 * MIB),
        (0x7F0000400000, 4 * MIB, 4 * MIB),
        (0x7F0000800000, 4 * MIB, 0),
        (0x7F0000C00000, 4 * MIB, None),
    ],
)
def test_smaps_is_read_by_address(tmp_path: Path, address: int, length: int, want: int | None) -> None:
    smaps = tmp_path / "smaps"
    smaps.write_text(SMAPS)
    assert huge_bytes(address, length, smaps) == want
    assert huge_bytes(address, length, tmp_path / "none") is None


def test_huge_pages_are_reported_as_they_are() -> None:
    """Granting them is the system's affair; where it does so always or on advice, we get them."""
    arena = Arena(16 * MIB)
    got = arena.huge_bytes()
    if got is None:
        pytest.skip("the system does not tell")
    assert got == 0
    np.frombuffer(arena.memory, np.uint8)[: 8 * MIB] = 1
    got = arena.huge_bytes()
    assert got is not None
    assert got % HUGE_PAGE == 0
    assert 0 <= got <= 8 * MIB
    modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    if "[never]" in modes:
        assert got == 0
    else:
        assert got > 0
    arena.close()


def test_two_reservations_are_told_apart() -> None:
    """Neighbouring ranges must not be merged into one mapping, or each would report the other's pages."""
    ranges = [Pages(4 * MIB) for _ in range(6)]
    for pages in ranges[::2]:
        np.frombuffer(pages.memory, np.uint8)[:] = 1
    told = [pages.huge_bytes() for pages in ranges]
    if told[0] is None:
        pytest.skip("the system does not tell")
    assert told[1::2] == [0, 0, 0]

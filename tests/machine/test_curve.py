"""The disk's curve: interpolation against closed forms, and small real measurements."""

import os
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_machine import BLOCKS, KIB, MIB, THREADS, made_curve
from locum.errors import LocumError
from locum.machine.curve import DiskPoint, _touched, best_rate, measure_curve, pieces, rate_at
from locum.machine.disk import opened

coefficient = st.floats(0, 1e8)


@given(
    a=st.floats(1e6, 1e8), b=coefficient, c=coefficient, d=coefficient, x=st.floats(0, 8), y=st.floats(0, 3)
)
def test_a_surface_bilinear_in_the_logarithms_comes_back_exactly(
    a: float, b: float, c: float, d: float, x: float, y: float
) -> None:
    def surface(x: float, y: float) -> float:
        return a + b * x + c * y + d * x * y

    # linear in log2(block) and in log2(threads): what was measured at 9 places is known everywhere between
    curve = made_curve(surface)
    assert rate_at(curve, 64 * KIB * 2**x, 2**y) == pytest.approx(surface(x, y))


@given(
    rates=st.lists(st.floats(1, 1e10), min_size=9, max_size=9),
    block=st.floats(1, 1e12),
    threads=st.floats(0.01, 1e4),
)
def test_laws(rates: list[float], block: float, threads: float) -> None:
    places = dict(zip(product(BLOCKS, THREADS), rates, strict=True))
    curve = [DiskPoint(b, t, True, rate) for (b, t), rate in places.items()]
    for (b, t), rate in places.items():
        assert rate_at(curve, b, t) == pytest.approx(rate), "measured places are hit"
    got = rate_at(curve, block, threads)
    assert min(rates) * (1 - 1e-9) <= got <= max(rates) * (1 + 1e-9), "nothing is made up"
    inside = min(max(block, BLOCKS[0]), BLOCKS[-1]), min(max(threads, THREADS[0]), THREADS[-1])
    assert rate_at(curve, *inside) == pytest.approx(got), "outside is as the rim"
    assert rate_at(curve[::-1], block, threads) == got, "the order of the points is nothing"
    assert best_rate(curve, block) >= rate_at(curve, block, 2) * (1 - 1e-9)
    assert best_rate(curve, 2 * block) >= best_rate(curve, block) * (1 - 1e-9), "large experts can be split"
    assert best_rate(curve, 1e15) == pytest.approx(max(rates))


def test_half_way_in_the_logarithm_is_the_mean() -> None:
    curve = made_curve(lambda x, y: 1e9 + 1e8 * x, blocks=(MIB, 4 * MIB), threads=(1,))
    low, high = rate_at(curve, MIB, 1), rate_at(curve, 4 * MIB, 1)
    assert rate_at(curve, 2 * MIB, 1) == pytest.approx((low + high) / 2)
    assert low < rate_at(curve, 2 * MIB, 1) < high


def test_ordinary_pages_do_not_count() -> None:
    assert rate_at(made_curve(plain=100.0), MIB, 2) == rate_at(made_curve(plain=0.01), MIB, 2)


def test_the_pieces() -> None:
    """Every point once a round; a round is in random order; blocks that the file cannot hold are left out."""
    order = pieces(1 << 30)
    assert len(order) == 5 * 4 * 2 * 2
    assert set(Counter(order).values()) == {2}
    assert sorted(order[:40]) == sorted(order[40:])
    assert order[:40] != sorted(order[:40])
    assert {block for block, _, _ in pieces(MIB)} == {64 * KIB, 256 * KIB, MIB}
    assert pieces(1) == []


def test_the_buffers_take_an_eighth_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for memory, largest in ((2 << 30, 16 * MIB), ((2 << 30) - 1, 4 * MIB), (100 * MIB, 256 * KIB)):
        monkeypatch.setattr("locum.machine.curve.memory_limit", lambda memory=memory: memory)
        assert max(block for block, _, _ in pieces(1 << 30)) == largest


@pytest.mark.parametrize("refused", [False, True])
def test_a_small_file_is_measured(tmp_path: Path, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is one thread per buffer and reads whole blocks; where direct I/O is refused, buffered."""
    real_open, real_read = os.open, os.preadv
    lengths: Counter[int] = Counter()

    def opening(path: str, flags: int, *rest: int, **more: int) -> int:
        if refused and flags & getattr(os, "O_DIRECT", 0):
            raise OSError(22, "Invalid argument")
        return real_open(path, flags, *rest, **more)

    def reading(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        lengths[len(buffers[0])] += 1
        assert offset % len(buffers[0]) == 0
        return real_read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr("locum.machine.disk._FILE_BYTES", 2 * MIB)
    blocks, threads, told = (4096, 16384), (1, 3), []
    with opened(tmp_path, 16384) as source:
        assert source.mode == ("buffered" if refused else "direct")
        monkeypatch.setattr(os, "preadv", reading)
        order = pieces(source.size, blocks, threads)
        curve = measure_curve(source, order, 0.005, lambda: told.append(len(lengths)))
    assert set(lengths) == set(blocks)
    assert [(p.block, p.threads, p.huge_pages) for p in curve] == sorted(
        product(blocks, threads, (False, True))
    )
    assert all(1e3 < point.bytes_s < 1e12 for point in curve)
    assert len(told) == len(order) == 16
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("huge", [False, True])
def test_ordinary_pages_are_ordinary(huge: bool) -> None:
    pages = _touched(4 * MIB, huge=huge)
    assert all(pages.memory[place] == 1 for place in range(0, pages.size, 4096))
    if not huge:
        assert pages.huge_bytes() in (0, None)


def test_a_file_smaller_than_every_block_has_no_curve(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 64 * 4096)
    with opened(tmp_path, 4096) as source:
        assert measure_curve(source, pieces(100)) == ()


def test_a_disk_that_fails_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * 64 * 4096)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with opened(tmp_path, 4096) as source:
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(LocumError, match="Input/output error"):
            measure_curve(source, [(4096, 2, True)], 0.001)

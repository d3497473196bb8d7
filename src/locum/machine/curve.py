"""Read rate by block size, threads and kind of pages: how a disk treats small and large experts.

A disk rewards large requests: many small ones cost a request each, and no number of threads makes up for it.
Memory on ordinary pages splits each request into many segments, which huge pages do not.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from locum.machine.disk import Source
from locum.machine.limits import memory_limit
from locum.machine.pages import Pages
from locum.units import KIB, MIB

BLOCKS = (64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB)
THREADS = (1, 2, 4, 8)
ROUNDS = 2
PIECE_SECONDS = 0.15
_TOUCH = 4096

Piece = tuple[int, int, bool]
"""(bytes of a block, threads, huge pages)"""


@dataclass(frozen=True, slots=True)
class DiskPoint:
    """`bytes_s` read by `threads` in random blocks of `block` bytes, into huge pages or ordinary ones."""

    block: int
    threads: int
    huge_pages: bool
    bytes_s: float


def pieces(
    size: int, blocks: Sequence[int] = BLOCKS, threads: Sequence[int] = THREADS, rounds: int = ROUNDS
) -> list[Piece]:
    """What is read of a file of `size` bytes, in which order: every point once a round, at random.

    In random order, because a shared disk drifts, and measured in order a drift would look like a curve.
    Blocks are left out that are larger than the file, or for which the buffers of all threads, of both kinds,
    would take more than an eighth of the memory there is.
    """
    most = min(size, memory_limit() // 16 // max(threads))
    grid = [*product([block for block in blocks if block <= most], threads, (True, False))]
    order = random.Random()  # noqa: S311 - no secret
    return [piece for _ in range(rounds) for piece in order.sample(grid, len(grid))]


def measure_curve(
    source: Source,
    order: Sequence[Piece],
    seconds: float = PIECE_SECONDS,
    told: Callable[[], None] | None = None,
) -> tuple[DiskPoint, ...]:
    """Read every piece of `order` for about `seconds`; `told` is called before each.

    A point is all its bytes over all its seconds. On a file that fits into a cache of the host or of the disk
    (a temporary one is half a GiB), these are the rates of that cache where there is one. Raises `LocumError`
    when a read fails.
    """
    if not order:
        return ()
    memory = {huge: _touched(max(b * t for b, t, _ in order), huge=huge) for huge in (True, False)}
    moved: dict[Piece, int] = defaultdict(int)
    spent: dict[Piece, float] = defaultdict(float)
    for piece in order:
        if told is not None:
            told()
        block, threads, huge = piece
        whole = memory[huge].memory
        count, took = source.race([whole[n * block : (n + 1) * block] for n in range(threads)], seconds)
        moved[piece] += count
        spent[piece] += took
    return tuple(DiskPoint(*piece, moved[piece] / spent[piece]) for piece in sorted(moved))


def rate_at(curve: Sequence[DiskPoint], block: float, threads: float) -> float:
    """Bytes per second into huge pages, interpolated linearly in the logarithms of block size and threads.

    What lies outside of the curve is taken as its rim. The curve holds every block with every number of
    threads, as `measure_curve` leaves it.
    """
    assert min(block, threads) > 0, "no reads, no rate"
    rows: dict[int, list[DiskPoint]] = defaultdict(list)
    for point in sorted(curve, key=lambda point: (point.block, point.threads)):
        if point.huge_pages:
            rows[point.block].append(point)
    by_block = [
        np.interp(math.log2(threads), [math.log2(p.threads) for p in row], [p.bytes_s for p in row])
        for row in rows.values()
    ]
    return float(np.interp(math.log2(block), [math.log2(size) for size in rows], by_block))


def best_rate(curve: Sequence[DiskPoint], block: float) -> float:
    """The most bytes per second into huge pages in blocks of up to `block`, with any number of threads."""
    counts = {point.threads for point in curve}
    sizes = {point.block for point in curve if point.block < block} | {block}
    return max(rate_at(curve, size, threads) for size, threads in product(sizes, counts))


def _touched(size: int, *, huge: bool) -> Pages:
    """Pages that are really there: getting them from the system is not to be measured."""
    pages = Pages(size, huge=huge)
    np.frombuffer(pages.memory, np.uint8)[::_TOUCH] = 1
    return pages

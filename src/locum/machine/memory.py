"""Memory read bandwidth, by numpy reductions alone.

`bitwise_xor.reduce` over 64-bit integers is bound by memory, not by arithmetic (numpy's own vector loops
reach what AVX-512 loads in C do), and it frees the interpreter lock, so threads add up.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt

from locum.machine.limits import cpu_count, memory_limit
from locum.machine.pages import Pages
from locum.units import MIB

SECONDS = 0.5
BUFFER_BYTES = 256 * MIB
"""All threads together: several times the last-level cache."""


def measure_memory(seconds: float = SECONDS, buffer_bytes: int = BUFFER_BYTES) -> dict[int, float]:
    """Bytes per second read from memory, by number of threads: 1, 2, 4 ... and all processors.

    Each figure takes about `seconds` and is the best of its passes, because what else runs can only slow one.
    The buffer lies on huge pages, takes at most an eighth of the memory there is, and is given back.
    """
    size = max(min(buffer_bytes, memory_limit() // 8), MIB)
    pages = Pages(size)
    data = np.frombuffer(pages.memory, np.int64)[: size // 8]
    data[:] = 1  # real pages: reading untouched ones would read one shared page of zeros
    try:
        return {threads: _rate(data, threads, seconds) for threads in thread_counts(cpu_count())}
    finally:
        pages.release(0, pages.size)


def thread_counts(processors: int) -> list[int]:
    """The powers of two below `processors`, and `processors`."""
    return sorted(
        {1 << power for power in range(processors.bit_length()) if 1 << power < processors} | {processors}
    )


def _rate(data: npt.NDArray[np.int64], threads: int, seconds: float) -> float:
    parts = np.array_split(data, threads)
    best, deadline = 0.0, time.perf_counter() + seconds
    with _Team([partial(np.bitwise_xor.reduce, part) for part in parts]) as team:
        team.once()  # warm: first touches and clock speeds
        while not best or time.perf_counter() < deadline:
            best = max(best, data.nbytes / team.once())
    return best


class _Team:
    """Threads that run their function once, all together, each time they are told."""

    def __init__(self, works: list[Callable[[], object]]) -> None:
        self._gate = threading.Barrier(len(works) + 1)
        self._stop = False
        self._threads = [threading.Thread(target=self._run, args=(work,), daemon=True) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._gate.wait()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[], object]) -> None:
        while True:
            self._gate.wait()
            if self._stop:
                return
            work()
            self._gate.wait()

    def once(self) -> float:
        """Seconds until all have run once."""
        begun = time.perf_counter()
        self._gate.wait()
        self._gate.wait()
        return time.perf_counter() - begun

"""How fast the products of one row with expert weights read those weights: what computing makes of memory.

Decoding multiplies one row with every weight once, so bytes of weights per second is the figure that compares
with the memory's bandwidth. Larger weights than any cache are streamed. What torch does is measured by
whoever may import torch, in a process of its own, and handed over as JSON.
"""

import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from locum.machine.limits import cpu_count, memory_limit
from locum.machine.memory import BUFFER_BYTES
from locum.machine.pages import Pages
from locum.native import load

SHAPE = (2048, 2048)
"""[outputs, inputs] of the weights that are multiplied: gate and up of an OLMoE expert, 8 MiB in bfloat16."""
SECONDS = 0.3
MOST = 1 << 60
"""No sound count or rate reaches this."""
_ONE = 0x3F80
_ORDER = (512, 1 << 20)
_log = logging.getLogger("locum")


@dataclass(frozen=True, slots=True)
class KernelRate:
    """`bytes_s` of weights read by the product of one row, `kernel` being `native` or `torch`."""

    kernel: str
    dtype: str
    threads: int
    bytes_s: float

    def sane(self) -> bool:
        """Whether every field is what it should be."""
        return (
            all(type(text) is str for text in (self.kernel, self.dtype))
            and (type(self.threads) is int and 0 < self.threads < MOST)
            and (type(self.bytes_s) in (int, float) and 0 < self.bytes_s < MOST)
        )


def weights(buffer_bytes: int = BUFFER_BYTES, each: int = 2 * SHAPE[0] * SHAPE[1]) -> Pages:
    """Room for whole weights of `each` bytes on huge pages, at most an eighth of the memory there is."""
    count = max(1, min(buffer_bytes, memory_limit() // 8) // each)
    return Pages(count * each)


def best_pass(work: Callable[[], object], size: int, seconds: float = SECONDS) -> float:
    """Bytes per second of the best pass over `size` bytes, for about `seconds` after one pass to warm up.

    The best, because what else runs on the machine can only slow one.
    """
    work()
    best, deadline = math.inf, time.perf_counter() + seconds
    while math.isinf(best) or time.perf_counter() < deadline:
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return size / best


def measure_native(seconds: float = SECONDS, buffer_bytes: int = BUFFER_BYTES) -> tuple[KernelRate, ...]:
    """The native bfloat16 product with 1 thread and all. Empty where the native library cannot run."""
    native = load()
    if native.missing is not None:
        return ()
    outputs, inputs = SHAPE
    each = 2 * outputs * inputs
    pages = weights(buffer_bytes)
    size = pages.size // each * each
    np.frombuffer(pages.memory, np.uint16)[:] = _ONE
    x, y = np.full(inputs, _ONE, np.uint16), np.empty(outputs, np.uint16)

    def once(threads: int) -> None:
        for offset in range(0, size, each):
            native.linear_bf16(
                pages.address + offset, x.ctypes.data, y.ctypes.data, outputs, inputs, *_ORDER, threads
            )

    try:
        return tuple(
            KernelRate("native", "bf16", threads, best_pass(partial(once, threads), size, seconds))
            for threads in sorted({1, cpu_count()})
        )
    finally:
        pages.release(0, pages.size)


def child_rates(module: str) -> tuple[KernelRate, ...]:
    """What `python -m MODULE` prints: a JSON list of `KernelRate`. Empty, and logged, where it fails."""
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own module
    try:
        found: Any = json.loads(done.stdout)
        rates = tuple(KernelRate(**rate) for rate in found)
    except (ValueError, TypeError):
        rates = ()
    if done.returncode or not rates or not all(rate.sane() for rate in rates):
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing of use"]
        _log.warning("%s could not be measured: %s", module, last[0])
        return ()
    return rates

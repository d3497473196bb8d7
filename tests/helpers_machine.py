"""Made-up machine profiles."""

import math
from collections.abc import Callable, Sequence
from itertools import product

from locum.machine.curve import DiskPoint
from locum.machine.kernels import KernelRate
from locum.machine.profile import MachineProfile

KIB, MIB = 1 << 10, 1 << 20
BLOCKS, THREADS = (64 * KIB, MIB, 16 * MIB), (1, 2, 8)


def made_curve(
    rate: Callable[[float, float], float] = lambda block, threads: 1e8 * (1 + block + threads),
    blocks: Sequence[int] = BLOCKS,
    threads: Sequence[int] = THREADS,
    plain: float = 0.5,
) -> tuple[DiskPoint, ...]:
    """A curve from `rate(log2(block / 64 KiB), log2(threads))`; ordinary pages give `plain` times that."""
    return tuple(
        DiskPoint(b, t, huge, rate(math.log2(b / (64 * KIB)), math.log2(t)) * (1 if huge else plain))
        for b, t, huge in product(blocks, threads, (False, True))
    )


KERNELS = (
    KernelRate("native", "bf16", 1, 1.3e10),
    KernelRate("native", "bf16", 2, 2.8e10),
    KernelRate("torch", "fp32", 2, 1.0e10),
)
QUICK = MachineProfile(
    disk_read_bytes_s=2e9,
    disk_block=8 * MIB,
    disk_threads=2,
    disk_mode="direct",
    memory_read_bytes_s={1: 2.6e10, 2: 3.1e10},
    fingerprint={"processor": "a processor", "device": "254:0", "kernel": "6.1"},
    when="2026-01-02T03:04:05+00:00",
)

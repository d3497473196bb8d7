"""`python -m locum.kernels.rates`: how fast torch's products of one row read weights, as JSON on stdout.

Beside the native product's rate, which `locum.machine.kernels` measures alike: the same weights, the same
memory on huge pages. A process of its own, because importing torch takes seconds and hundreds of MiB, and
its number of threads is for the whole process.
"""

import json
import sys
from dataclasses import asdict
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor

from locum.machine.kernels import SECONDS, SHAPE, KernelRate, best_pass, weights
from locum.machine.limits import cpu_count
from locum.machine.memory import BUFFER_BYTES

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@torch.inference_mode()
def measure_torch(seconds: float = SECONDS, buffer_bytes: int = BUFFER_BYTES) -> tuple[KernelRate, ...]:
    """`F.linear` of one row, in bfloat16 and float32, with 1 thread and all.

    Leaves torch's number of threads changed.
    """
    rates = []
    for name, dtype in _DTYPES.items():
        count = SHAPE[0] * SHAPE[1]
        pages = weights(buffer_bytes, count * dtype.itemsize)
        flat = torch.frombuffer(pages.memory, dtype=dtype)
        w_COI = flat[: len(flat) // count * count].fill_(1.0).view(-1, *SHAPE)  # C weights, outputs, inputs
        x = torch.ones(1, SHAPE[1], dtype=dtype)
        for threads in sorted({1, cpu_count()}):
            torch.set_num_threads(threads)
            rate = best_pass(partial(_multiply, x, w_COI), w_COI.nbytes, seconds)
            rates.append(KernelRate("torch", name, threads, rate))
    return tuple(rates)


def _multiply(x: Tensor, w_COI: Tensor) -> None:
    for w_OI in w_COI:
        F.linear(x, w_OI)


if __name__ == "__main__":
    json.dump([asdict(rate) for rate in measure_torch()], sys.stdout)

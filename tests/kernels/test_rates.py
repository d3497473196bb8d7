"""Torch's rates, measured small, and as the process that `locum doctor` starts."""

import pytest
import torch

from locum.kernels import rates
from locum.machine.kernels import SHAPE


def test_torch_is_measured_in_both_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "cpu_count", lambda: 2)
    before = torch.get_num_threads()
    try:
        found = rates.measure_torch(seconds=0.01, buffer_bytes=8 * SHAPE[0] * SHAPE[1])
    finally:
        torch.set_num_threads(before)
    assert [(r.kernel, r.dtype, r.threads) for r in found] == [
        ("torch", dtype, threads) for dtype in ("bf16", "fp32") for threads in (1, 2)
    ]
    assert all(rate.sane() for rate in found)

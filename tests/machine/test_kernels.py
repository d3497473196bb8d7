"""Kernel rates: what is multiplied, how rates come about, and what another process says."""

import logging
import time
from pathlib import Path

import pytest

from locum.machine import kernels
from locum.machine.kernels import SHAPE, KernelRate, best_pass, child_rates, measure_native, weights
from locum.native import Native, load

EACH = 2 * SHAPE[0] * SHAPE[1]


def test_every_weight_is_read_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(kernels, "load", lambda: Native(None, lambda *a: calls.append(a)))
    monkeypatch.setattr(kernels, "cpu_count", lambda: 3)
    rates = measure_native(seconds=0.001, buffer_bytes=4 * EACH)
    assert [(r.kernel, r.dtype, r.threads) for r in rates] == [("native", "bf16", 1), ("native", "bf16", 3)]
    for threads in (1, 3):
        mine = [call for call in calls if call[-1] == threads]
        first = mine[0][0]
        assert [call[0] - first for call in mine[:8]] == [0, EACH, 2 * EACH, 3 * EACH] * 2
        assert {call[3:5] for call in mine} == {SHAPE}


def test_the_native_product_for_real() -> None:
    rates = measure_native(seconds=0.01, buffer_bytes=2 * EACH)
    assert bool(rates) == (load().missing is None)
    assert all(1e8 < rate.bytes_s < 1e13 for rate in rates)


def test_without_the_library_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "load", lambda: Native("not here"))
    assert measure_native() == ()


def test_the_room_for_weights_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "memory_limit", lambda: 8 * 5 * EACH)
    assert weights(100 * EACH).size == 5 * EACH
    assert weights(3 * EACH + 1).size == 3 * EACH
    assert weights(1).size == EACH


def test_the_best_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of 4, 2, 8 and 8 seconds after one to warm up, for 20 seconds: the second gives the rate."""
    now, took = 0.0, iter([1.0, 4.0, 2.0, 8.0, 8.0])

    def work() -> None:
        nonlocal now
        now += next(took)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert best_pass(work, 100, seconds=20) == 50
    assert next(took, None) is None


def test_a_pass_longer_than_the_time_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work() -> None:
        nonlocal now
        now += 10

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert best_pass(work, 100, seconds=0) == 10


@pytest.mark.parametrize(
    ("kernel", "dtype", "threads", "rate", "sane"),
    [
        ("torch", "bf16", 1, 1.0, True),
        (1, "bf16", 1, 1.0, False),
        ("torch", None, 1, 1.0, False),
        ("torch", "bf16", True, 1.0, False),
        ("torch", "bf16", 0, 1.0, False),
        ("torch", "bf16", 1, float("inf"), False),
        ("torch", "bf16", 1, -1, False),
        ("torch", "bf16", 1, "1", False),
    ],
)
def test_sane(kernel: str, dtype: str, threads: int, rate: float, sane: bool) -> None:
    assert KernelRate(kernel, dtype, threads, rate).sane() == sane


@pytest.mark.parametrize(
    "body",
    [
        "raise SystemExit('no torch here')",
        "print('[]')",
        "print('nonsense')",
        'print(\'[{"kernel": "torch"}]\')',
        "print('[1]')",
        'print(\'[{"kernel": "torch", "dtype": "bf16", "threads": 1, "bytes_s": -1}]\')',
        'print(\'[{"kernel": "torch", "dtype": "bf16", "threads": 1, "bytes_s": 1}]\'); exit(3)',
    ],
)
def test_a_child_that_fails_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    (tmp_path / "a_child.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with caplog.at_level(logging.WARNING, logger="locum"):
        assert child_rates("a_child") == ()
    assert "a_child could not be measured" in caplog.text


def test_a_child_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = '[{"kernel": "torch", "dtype": "bf16", "threads": 1, "bytes_s": 5e9}]'
    (tmp_path / "a_child.py").write_text(f"print('{rate}')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert child_rates("a_child") == (KernelRate("torch", "bf16", 1, 5e9),)

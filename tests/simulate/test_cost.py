"""The simulator's disk against figures worked out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_machine import MIB, QUICK, made_curve
from locum.cli.simulate import measured_device
from locum.errors import UsageError
from locum.residency.keys import KeyRange, KeySpace
from locum.residency.mover.base import Priority, Slot
from locum.simulate import Device
from locum.simulate.cost import Compute, StepCost
from locum.trace import TraceMeta


@pytest.mark.parametrize("size", [1000, 4001, 1 << 20, (1 << 20) + 1, 12_582_912])
def test_seconds_of_one_expert(size: int) -> None:
    keys = KeySpace([KeyRange(0, 0, 4096, (size,))])
    mover = Device(1e6, channels=4).mover(keys)
    mover.wait_any([mover.start(0, Slot(0, 4096), Priority.DEMAND)])
    assert mover.now() == pytest.approx(4 * size / 1e6)  # one of four channels
    for ticket in [mover.start(0, Slot(0, 4096), Priority.DEMAND) for _ in range(4)]:
        mover.wait_any([ticket])
    assert mover.now() == pytest.approx(8 * size / 1e6), "four at once have the whole rate"


def steps(compute_s: list[float], loads: list[int], size: int = 1000) -> dict[str, Any]:
    """A trace's clock: decode steps that read so many experts of `size` bytes."""
    return {
        "step": np.arange(len(loads)), "phase": np.ones(len(loads), np.uint8),
        "compute_s": np.array(compute_s), "predict_s": np.full(len(loads), 0.3),
        "bytes_read": size * np.array(loads),
    }  # fmt: skip


META = TraceMeta(
    model="m", moe_layers=(0, 1), experts=(8, 8), top_k=(2, 2), distances=3, predicted=2,
    columns=("next_ids", "next_scores"), expert_bytes=(1000, 1000), slot_bytes=(4096, 4096),
    backbone_bytes=12_000,
)  # fmt: skip


def differ(loads: list[int]) -> bool:
    ordered = sorted(loads)
    return ordered[-12] - ordered[11] > max(3, ordered[len(loads) // 2])


@given(
    load_s=st.floats(0, 0.1),
    loads=st.lists(st.integers(0, 30), min_size=48, max_size=80).filter(differ),
    wild=st.integers(0, 3),
)
def test_what_a_load_costs_is_found_in_spite_of_outliers(load_s: float, loads: list[int], wild: int) -> None:
    seconds = [2.0 + load_s * count for count in loads]
    cost = Compute(steps(seconds, loads), META).of(3)
    assert cost.load_s == pytest.approx(load_s, abs=1e-9)
    assert (cost.experts_s, cost.rest_s) == (pytest.approx(0.5), pytest.approx(1.5))  # 4 kB of 16
    for place in range(wild):
        seconds[place * 7] += 50.0
    assert Compute(steps(seconds, loads), META).load_s == pytest.approx(load_s, abs=0.03)


def test_looking_ahead_costs_its_part() -> None:
    clock = steps([1.0] * 4, [0] * 4)
    plain = Compute(clock, META).of(0)
    for distance, part in ((1, 0.1), (2, 0.2), (3, 0.3), (5, 0.3)):
        assert Compute(clock, META, distance).of(0).rest_s == pytest.approx(plain.rest_s + part)


def test_loads_that_hardly_differ_tell_nothing() -> None:
    assert Compute(steps([1.0, 2.0] * 40, [4, 4] * 40), META).load_s == 0
    assert Compute(steps([1.0, 9.0] * 40, [57, 58] * 40), META).load_s == 0, "noise over next to nothing"
    assert Compute(steps([1.0, 9.0] * 20, [3, 30] * 20), META).load_s == 0, "too few"
    assert Compute(steps([1.0, 2.0], [0, 9]), META).load_s == 0


def test_a_trace_without_a_clock() -> None:
    assert Compute(steps([], []), META).of(0) == StepCost(0.0, 0.0, 0.0)


RATES = {1: 1e8, 2: 2e8, 8: 3e8}
"""By threads; 4 give 2.5e8."""


@pytest.mark.parametrize(
    ("size", "channels"),
    [
        (300_000, 2),  # one thread reads it at 1e8, four read four at 2.5e8
        (4 * MIB, 2),
        (4 * MIB + 1, 1),  # two threads read its two blocks at 2e8
        (64 * MIB, 1),
    ],
)
def test_the_measured_disk(size: int, channels: int) -> None:
    curve = made_curve(lambda x, y: RATES[round(2**y)])
    device = measured_device(replace(QUICK, curve=curve), [size])
    assert device.bytes_per_second == pytest.approx(2.5e8)
    assert device.channels == channels


def test_the_measured_disk_of_a_quick_profile() -> None:
    assert measured_device(QUICK, [MIB, 2 * MIB]) == Device(2e9, channels=1)
    assert measured_device(QUICK, [1000, 2 * MIB]) == Device(2e9, channels=1)


@pytest.mark.parametrize("device", [Device(0), Device(1, channels=0)])
def test_a_device_that_is_none(device: Device) -> None:
    with pytest.raises(UsageError, match="needs a rate and a channel"):
        device.mover(KeySpace([KeyRange(0, 0, 4096, (1,))]))

"""The simulator's disk against figures worked out by hand."""

from dataclasses import replace

import pytest

from helpers_machine import MIB, QUICK, made_curve
from locum.cli.simulate import measured_device
from locum.errors import UsageError
from locum.residency.keys import KeyRange, KeySpace
from locum.residency.mover.base import Priority, Slot
from locum.simulate import Device


@pytest.mark.parametrize(
    ("size", "block", "seconds"),
    [
        (1000, 1000, 4e-3),  # one block, on one of four channels of 250,000 B/s
        (4000, 1000, 16e-3),  # four blocks, one after the other
        (4001, 1000, 20e-3),  # counts as five
        (1000, 1 << 20, 4 * (1 << 20) / 1e6),  # counts as a MiB
    ],
)
def test_seconds_of_one_expert(size: int, block: int, seconds: float) -> None:
    keys = KeySpace([KeyRange(0, 0, 4096, (size,))])
    mover = Device(1e6, channels=4, block=block).mover(keys)
    mover.wait_any([mover.start(0, Slot(0, 4096), Priority.DEMAND)])
    assert mover.now() == pytest.approx(seconds)
    # four at once have the whole rate
    for ticket in [mover.start(0, Slot(0, 4096), Priority.DEMAND) for _ in range(4)]:
        mover.wait_any([ticket])
    assert mover.now() == pytest.approx(2 * seconds)


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
    assert (device.channels, device.block) == (channels, min(size, MIB))


def test_the_measured_disk_of_a_quick_profile() -> None:
    assert measured_device(QUICK, [MIB, 2 * MIB]) == Device(2e9, channels=1, block=MIB)
    assert measured_device(QUICK, [1000, 2 * MIB]) == Device(2e9, channels=1, block=1000)


@pytest.mark.parametrize("device", [Device(0), Device(1, channels=0), Device(1, block=0)])
def test_a_device_that_is_none(device: Device) -> None:
    with pytest.raises(UsageError, match="a rate, a channel and a block"):
        device.mover(KeySpace([KeyRange(0, 0, 4096, (1,))]))

"""What a run is held against: the disk at the size of the model's experts, where its curve is known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from helpers_machine import MIB, QUICK, made_curve
from locum.engine.outcome import measured_ceiling, usable_disk_rate

SPEC: Any = SimpleNamespace(
    expert_bytes=(MIB // 4, MIB), active_bytes_per_token=80 * MIB, backbone_bytes_per_token=20 * MIB
)
"""Experts of 256 KiB and a MiB."""


def test_a_quick_profile_gives_its_one_rate() -> None:
    assert usable_disk_rate(SPEC, QUICK) == 2e9
    assert measured_ceiling(SPEC, QUICK, 0.5).disk_seconds == pytest.approx(40 * MIB / 2e9)


def test_a_whole_profile_gives_the_rate_of_the_largest_experts() -> None:
    """The curve is 1e8 (1 + log2(block / 64 KiB) + log2(threads)): 4 for a MiB, 3 for 8 threads."""
    whole = replace(QUICK, curve=made_curve())
    assert usable_disk_rate(SPEC, whole) == pytest.approx(8e8)
    bound = measured_ceiling(SPEC, whole, 0.5)
    assert bound.disk_seconds == pytest.approx(40 * MIB / 8e8)
    assert (bound.bound, bound.memory_seconds) == ("disk", pytest.approx(100 * MIB / 3.1e10))

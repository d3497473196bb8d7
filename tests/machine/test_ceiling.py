"""The ceiling against figures worked out by hand, and its laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import UsageError
from locum.machine import ceiling, ceilings

GB = 10**9


def test_figures_worked_out_by_hand() -> None:
    """8 GB of experts and 2 GB of backbone a token, disk 2 GB/s, memory 20 GB/s."""
    rates = {
        "expert_bytes": 8 * GB,
        "backbone_bytes": 2 * GB,
        "disk_bytes_s": 2 * GB,
        "memory_bytes_s": 20 * GB,
    }
    got = ceilings(**rates, hit_rates=(0, 0.5, 0.75, 0.875, 0.9, 1))
    assert [c.disk_seconds for c in got] == pytest.approx([4, 2, 1, 0.5, 0.4, 0])
    assert [c.memory_seconds for c in got] == pytest.approx([0.5] * 6)
    assert [c.tokens_per_s for c in got] == pytest.approx([0.25, 0.5, 1, 2, 2, 2])
    assert [c.bound for c in got] == ["disk", "disk", "disk", "memory", "memory", "memory"]
    assert [c.hit_rate for c in ceilings(**rates)] == [0.0, 0.5, 0.9]


positive = st.floats(1, 1e13)


@given(h=st.floats(0, 1), expert=st.floats(0, 1e13), backbone=positive, disk=positive, memory=positive)
def test_laws(h: float, expert: float, backbone: float, disk: float, memory: float) -> None:
    def at(hit_rate: float, scale: float = 1) -> float:
        return ceiling(
            hit_rate=hit_rate,
            expert_bytes=expert,
            backbone_bytes=backbone,
            disk_bytes_s=disk * scale,
            memory_bytes_s=memory * scale,
        ).tokens_per_s

    assert at(h) <= at(1) * (1 + 1e-12), "more hits are never slower"
    assert at(h, 2) == pytest.approx(2 * at(h)), "a machine twice as fast is twice as fast"
    assert at(h) * (expert + backbone) <= memory * (1 + 1e-9), "memory carries every byte"
    assert at(h) * (1 - h) * expert <= disk * (1 + 1e-9), "the disk carries every miss"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hit_rate", -0.1),
        ("hit_rate", 1.1),
        ("hit_rate", math.nan),
        ("disk_bytes_s", 0),
        ("disk_bytes_s", math.nan),
        ("memory_bytes_s", -1),
        ("memory_bytes_s", math.inf),
        ("expert_bytes", -1),
        ("backbone_bytes", math.nan),
    ],
)
def test_nonsense_is_refused(name: str, value: float) -> None:
    good = {"hit_rate": 0.5, "expert_bytes": 1, "backbone_bytes": 1, "disk_bytes_s": 1, "memory_bytes_s": 1}
    with pytest.raises(UsageError, match=name.split("_", maxsplit=1)[0]):
        ceiling(**(good | {name: value}))
    with pytest.raises(UsageError, match="bytes per token"):
        ceiling(**(good | {"expert_bytes": 0, "backbone_bytes": 0}))

"""The bound, against figures worked out by hand and against the checkpoint's own tensors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.bench.roofline import Rates, Traffic
from locum.synth.shapes import shape

RATES = Rates(disk=2e9, memory=30e9)


def test_traffic_of_the_real_shape_by_hand() -> None:
    """16 layers of 8 experts of 3 matrices in bf16; attention, router, norms and head besides."""
    traffic = Traffic.of(shape("olmoe-1b-7b"))
    assert traffic.experts == 16 * 8 * 3 * 2048 * 1024 * 2
    layer = 4 * 2048 * 2048 + 64 * 2048 + 2 * 2048 + 2 * 2048
    assert traffic.backbone == (16 * layer + 2048 + 50304 * 2048) * 2


def test_dense_layers_count_as_backbone() -> None:
    whole = Traffic.of(shape("tiny-qwen3", mlp_only_layers=[]), "fp32")
    one_dense = Traffic.of(shape("tiny-qwen3", mlp_only_layers=[0]), "fp32")
    assert whole.experts * 2 == one_dense.experts * 3
    assert one_dense.backbone - whole.backbone == (3 * 64 * 96 - 8 * 64) * 4


def test_the_slower_resource_sets_the_bound() -> None:
    traffic = Traffic(experts=1_600_000_000, backbone=800_000_000)
    disk = traffic.bound(RATES, 0.5)
    assert (disk.by, disk.tok_s) == ("disk", pytest.approx(2e9 / 0.8e9))
    memory = traffic.bound(RATES, 0.95)
    assert (memory.by, memory.tok_s) == ("memory", pytest.approx(30e9 / 2.4e9))
    assert traffic.bound(RATES, 1.0).by == "memory"


@given(st.floats(1e6, 1e11), st.floats(1e6, 1e11))
def test_two_measurements_average_by_time_per_byte(one: float, two: float) -> None:
    """Half of the bytes at each rate take as long as all of them at the mean."""
    mean = Rates(one, two).mean(Rates(two, one))
    assert mean.disk == pytest.approx(1 / (0.5 / one + 0.5 / two))
    assert mean.memory == pytest.approx(mean.disk)

"""Rounding in groups against a brute-force search, and against rounding without one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.kernels.forms import maker
from locum.kernels.forms.grouped import pack, unpack
from locum.kernels.quantise import SHRINK, group_size, quantise


def made(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """What the quantised weight means."""
    return maker(f"int{bits}-g{group}")(quantise(weight, bits, group)._asdict(), tuple(weight.shape))


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([8, 16, 64]), st.randoms(use_true_random=False))
def test_four_bits_go_there_and_back(
    rows: int, groups: int, group: int, random: "np.random.Generator"
) -> None:
    codes = torch.tensor(
        [[[random.randint(-8, 7) for _ in range(group)] for _ in range(groups)] for _ in range(rows)],
        dtype=torch.int8,
    )
    packed = pack(codes)
    assert packed.shape == (rows, groups * group // 2)
    assert torch.equal(unpack(packed, group), codes)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_search_finds_the_best_that_is_tried(bits: int) -> None:
    weight = torch.distributions.StudentT(3.0).sample((12, 64)) * 0.02
    group = 16
    got = made(weight, bits, group)
    low = -(2 ** (bits - 1))
    for row in range(12):
        for start in range(0, 64, group):
            values = weight[row, start : start + group].double().numpy()
            extreme = values[np.abs(values).argmax()]
            errors = []
            for shrink in SHRINK[bits]:
                scale = float(torch.tensor(extreme * shrink / low).to(torch.bfloat16))
                codes = np.clip(np.round(values / scale), low, -low - 1)
                errors.append(((codes * scale - values) ** 2).sum())
            error = ((got[row, start : start + group].double().numpy() - values) ** 2).sum()
            assert error == pytest.approx(min(errors), rel=1e-5)


def test_clipping_is_worth_it() -> None:
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(1))
    grouped = weight.view(256, -1, 64)
    step = grouped.abs().amax(-1, keepdim=True) / 7
    plain = ((grouped / step).round() * step - grouped).norm()
    ours = (made(weight, 4, 64) - weight).norm()
    assert ours < 0.9 * plain


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([8, 4]),
    st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=16, max_size=16),
    st.integers(-30, 30),
)
def test_the_error_is_bounded_by_the_largest_weight(bits: int, values: list[float], power: int) -> None:
    weight = torch.tensor([values]) * 2.0**power
    if not bool(torch.isfinite(weight).all()):
        return
    got = made(weight, bits, 16)
    largest = float(weight.abs().max())
    assert bool(torch.isfinite(got).all())
    # half a step, the end of the range that one side lacks, the scale's own rounding; all of it at four bits
    # may be spent on clipping, which is only chosen when the sum of squares is the less for it
    bound = largest / 2 ** (bits - 1) * 1.05 if bits == 8 else largest * 0.5
    assert float((got - weight).abs().max()) <= bound + 1e-38
    assert bool((got[weight == 0] == 0).all())


@pytest.mark.parametrize(
    ("inputs", "wanted", "got"), [(2048, 64, 64), (1408, 128, 128), (96, 64, 32), (24, 64, 8), (20, 64, None)]
)
def test_groups_divide_the_inputs(inputs: int, wanted: int, got: int | None) -> None:
    assert group_size(inputs, wanted) == got

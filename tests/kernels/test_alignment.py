"""The probe finds a product whose bits depend on alignment, and only such a product."""

import pytest
import torch
from torch import Tensor

from locum.kernels import alignment
from locum.kernels.alignment import needed_alignment


def test_a_product_that_looks_at_the_address_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def touchy(x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
        exact = x @ (weight if transposed else weight.T)
        # one row only, one offset only, the last bit only: the least there is to find
        if len(x) == 1 and weight.data_ptr() % 64 == 40:
            exact.view(torch.int32)[0, -1] ^= 1
        return exact

    before = torch.get_num_threads()
    monkeypatch.setattr(alignment, "_product", touchy)
    for transposed in (False, True):
        assert needed_alignment([(24, 40)], torch.float32, transposed=transposed, threads=[1]) == 64
    monkeypatch.setattr(alignment, "_product", lambda x, w, t: x @ (w if t else w.T).clone())
    assert needed_alignment([(24, 40)], torch.float32, transposed=False, threads=[1, 2]) == 8
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("shape", [(24, 40), (1, 8), (64, 3)])
def test_copies_lie_where_they_are_wanted(shape: tuple[int, int]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.randn(shape).to(dtype)
        for offset in (0, 8, 24, 56):
            moved = alignment._at_offset(weight, offset)
            assert moved.data_ptr() % 64 == offset
            assert torch.equal(moved, weight)

"""The probe finds a product whose bits depend on alignment, and only such a product."""

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_weight_is_tried_wherever_it_may_lie(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    tried: dict[int, Tensor] = {}

    def seen(x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
        tried[weight.data_ptr() % 64] = weight.clone()
        return x @ weight.T.clone()

    monkeypatch.setattr(alignment, "_product", seen)
    assert needed_alignment([shape], dtype, transposed=False, threads=[1]) == 8
    assert set(tried) == {0, 8, 24, 40, 56}
    assert all(torch.equal(weight, tried[0]) for weight in tried.values())
    assert len(tried[0].unique()) > 4


def test_a_trial_takes_one_weight_of_memory() -> None:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        needed_alignment([(1024, 2048)], torch.bfloat16, transposed=False, threads=[1])
    held = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 1 <= peak / (2 * 1024 * 2048) < 1.7, "inputs and outputs are small beside it"

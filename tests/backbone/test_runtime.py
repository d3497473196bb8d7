"""The routed sum against transformers' eager experts, whatever order the experts arrive in."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers_models import FAMILIES, make_model
from locum.backbone.experts import expert_shapes, experts_modules
from locum.backbone.runtime import Routing, run_layer
from locum.residency.mover.base import Slot

HERE = Slot(0, 4096)


class Order:
    """Hands out a module's own experts in a given order of arrival."""

    def __init__(self, module: nn.Module, shuffle: torch.Generator) -> None:
        self.weights_by_expert = {
            e: {name: tensor[e].clone() for name, tensor in expert_shapes(module).items()}
            for e in range(module.num_experts)
        }
        self.shuffle = shuffle

    def step(self, tokens: int) -> None:
        raise AssertionError("not part of a layer")

    def chosen(self, layer: int, ids_TK: Tensor, weights_TK: Tensor) -> None:
        pass

    def acquire(self, layer: int, counts: Mapping[int, int], x_TH: Tensor) -> Any:
        assert list(counts) == sorted(counts)
        keys = list(counts)
        order = torch.randperm(len(keys), generator=self.shuffle).tolist()
        return nullcontext([(keys[i], HERE) for i in order])

    def weights(self, key: int, slot: Slot) -> Mapping[str, Tensor]:
        return self.weights_by_expert[key]

    def expert_of(self, key: int) -> int:
        return key


@pytest.fixture(scope="module", params=[(f, d) for f in FAMILIES for d in ("float32", "bfloat16")], ids=str)
def experts(request: pytest.FixtureRequest) -> nn.Module:
    family, dtype = request.param
    model = make_model(family, getattr(torch, dtype))
    _, module = list(experts_modules(model))[-1]
    module.config._experts_implementation = "eager"
    return module


@given(
    tokens=st.sampled_from([1, 1, 2, 3, 5, 17, 40]),
    seed=st.integers(0, 2**31),
    skip=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_bits_of_the_sum(experts: nn.Module, tokens: int, seed: int, skip: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    count = experts.num_experts
    x_TH = torch.randn(tokens, experts.down_proj.shape[1], generator=draw).to(experts.down_proj.dtype)
    if experts.is_transposed:
        x_TH = torch.randn(tokens, experts.gate_up_proj.shape[1], generator=draw).to(x_TH.dtype)
    ids_TK = torch.stack([torch.randperm(count, generator=draw)[:3] for _ in range(tokens)])
    weights_TK = torch.randn(tokens, 3, generator=draw).to(x_TH.dtype)
    # transformers' gpt-oss cannot be shown a skip id: its one_hot has no class for it
    if skip and type(experts).__name__ != "GptOssExperts":
        ids_TK[torch.rand(tokens, 3, generator=draw) < 0.3] = count
    module, expected = experts, experts(x_TH, ids_TK, weights_TK)
    module.locum_experts = count
    got = run_layer(module, Order(module, draw), 0, x_TH, ids_TK, weights_TK)
    assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))  # equal() would let -0 pass for +0


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_routing_sends_every_choice_to_one_place(data: st.DataObject) -> None:
    tokens, width, count = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(4, 9)))
    rows = data.draw(
        st.lists(
            st.lists(st.integers(0, count), min_size=width, max_size=width, unique=True),
            min_size=tokens,
            max_size=tokens,
        )
    )
    ids_TK = torch.tensor(rows)
    routing = Routing(ids_TK, count)
    flat = [e for row in rows for e in row if e < count]
    assert routing.counts == {e: flat.count(e) for e in sorted(set(flat))}
    out_TKH = routing.outputs(torch.zeros(tokens, 1), torch.float32)
    weights_TK = torch.arange(tokens * width).view(tokens, width)
    for expert in routing.counts:
        _, picked = routing.gather(expert, torch.zeros(tokens, 1), weights_TK)
        routing.scatter(expert, out_TKH, picked.float() + 1)
    for t, row in enumerate(rows):
        ascending = sorted(range(width), key=lambda k, row=row: row[k])
        expected = [float(t * width + k + 1) if row[k] < count else 0.0 for k in ascending]
        assert out_TKH[t, :, 0].tolist() == expected

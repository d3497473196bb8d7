"""The parts of training, each against something independent of it."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from locum.backbone.experts import experts_modules
from locum.train.balance import Balance
from locum.train.bytes_model import ByteModel
from locum.train.experts import IMPLEMENTATION
from locum.train.optimise import Muon, optimisers, orthogonal
from locum.train.recipe import MODELS, Recipe

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "intermediate_size": 48, "norm_topk_prob": True,
}  # fmt: skip


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **SMALL))
    return model


def gradients(model: Any, ids: torch.Tensor, implementation: str) -> dict[str, torch.Tensor]:
    model.set_experts_implementation(implementation)
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_experts_have_the_gradients_of_transformers() -> None:
    model = small()
    ids = torch.randint(64, (3, 17), generator=torch.Generator().manual_seed(1))
    right, got = gradients(model, ids, "eager"), gradients(model, ids, IMPLEMENTATION)
    for name, gradient in right.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_balance_loss_by_its_definition() -> None:
    model = small(1)
    balance = Balance(model)
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(2))
    inputs: list[torch.Tensor] = []
    for _, module in experts_modules(model):
        module.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    model(input_ids=ids)
    expected = []
    for x_TH, router in zip(inputs, balance.routers, strict=True):
        probability_TE = (x_TH @ router.weight.T).softmax(-1)
        chosen = Counter(e for row in probability_TE.topk(2).indices.tolist() for e in row)
        tokens = len(x_TH)
        expected.append(
            6 * sum(chosen[e] / (2 * tokens) * float(probability_TE[:, e].detach().mean()) for e in range(6))
        )
        assert sum(chosen.values()) == 2 * tokens
    assert balance.loss().item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert balance.load().shape == (2, 6)
    assert balance.load().mean(1).tolist() == pytest.approx([1.0, 1.0])


@given(rows=st.integers(2, 40), columns=st.integers(2, 40), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_an_orthogonal_update_has_singular_values_near_one(rows: int, columns: int, seed: int) -> None:
    g = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    got = orthogonal(g)
    inside = torch.einsum("bri,brc,bic->bi", u, got, vt)  # along the singular directions of g
    clear = s > 0.05 * s.amax(-1, keepdim=True)  # five steps do not lift the smallest ones
    assert inside[clear].min() > 0.6
    assert inside[clear].max() < 1.3
    assert torch.linalg.norm(got - torch.einsum("bri,bi,bic->brc", u, inside, vt)) < 1e-3 * math.sqrt(rows)


def test_every_parameter_has_one_optimiser() -> None:
    for name, settings_ in MODELS.items():
        recipe = Recipe(model=name)
        model = recipe.build()
        for kind in ("muon", "adamw"):
            found = optimisers(model, kind, 1e-3, 1e-3, 0.1)
            owned = [id(p) for o in found for group in o.param_groups for p in group["params"]]
            assert sorted(owned) == sorted(id(p) for p in model.parameters()), (name, kind)
            if kind == "muon":
                assert isinstance(found[0], Muon)
                assert all(p.dim() >= 2 for group in found[0].param_groups for p in group["params"])
        assert model.config.vocab_size == settings_["vocab_size"]


def test_the_sizes_that_were_asked_for() -> None:
    sizes = {name: sum(p.numel() for p in Recipe(model=name).build().parameters()) for name in MODELS}
    assert 15e6 <= sizes["tiny"] <= 20e6
    assert 0.4 <= sizes["tiny-shared"] / sizes["tiny"] <= 0.6
    config = MODELS["tiny"]
    unused = (config["num_experts"] - config["num_experts_per_tok"]) * 3 * 256 * 64 * 8
    routers = 8 * 256 * 32
    assert sizes["dense"] == sizes["tiny"] - unused - routers  # equal active parameters


def brute_bits(train: list[bytes], text: bytes, order: int) -> float:
    """Witten-Bell straight from its definition, on dictionaries."""
    stream = b"\0".join(train)
    counts = [Counter(stream[i : i + n] for i in range(len(stream) - n + 1)) for n in range(order + 2)]

    def p(context: bytes, c: bytes) -> float:
        shorter = p(context[1:], c) if context else 1 / 256
        after = {gram[-1:]: k for gram, k in counts[len(context) + 1].items() if gram[:-1] == context}
        total, kinds = sum(after.values()), len(after)
        return (after.get(c, 0) + kinds * shorter) / (total + kinds) if total else shorter

    return -sum(math.log2(p(text[max(0, i - order) : i], text[i : i + 1])) for i in range(len(text)))


@given(
    train=st.lists(
        st.binary(min_size=1, max_size=30).map(lambda b: bytes(x % 4 for x in b)), min_size=1, max_size=4
    ),
    text=st.binary(min_size=1, max_size=20).map(lambda b: bytes(x % 5 for x in b)),
    order=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_the_byte_model_by_its_definition(train: list[bytes], text: bytes, order: int) -> None:
    got = ByteModel(train, order).bits_per_byte([text])
    assert got == pytest.approx(brute_bits(train, text, order) / len(text), rel=1e-9)

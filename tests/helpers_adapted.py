"""What the checks of adapted families compare with: transformers' own modules, changed very little."""

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor, nn

from locum.backbone.adapters import adapt
from locum.backbone.experts import experts_modules
from locum.residency.mover.base import Slot


class Held:
    """Lends an adapted module the tensors that it was adapted from, and remembers who was asked for."""

    def __init__(self, weights: list[dict[str, Tensor]]) -> None:
        self.held, self.asked = weights, list[int]()

    def chosen(self, layer: int, ids_TK: Tensor, weights_TK: Tensor) -> None:
        pass

    def acquire(self, layer: int, counts: Mapping[int, int], x_TH: Tensor) -> Any:
        self.asked += counts
        return nullcontext([(expert, Slot(0, 4096)) for expert in reversed(list(counts))])

    def weights(self, key: int, slot: Slot) -> Mapping[str, Tensor]:
        return self.held[key]

    def expert_of(self, key: int) -> int:
        return key


def adapted(block: nn.Module, weights: list[dict[str, Tensor]]) -> tuple[Any, Held]:
    """A copy of `block` after its adapter, whose experts are `weights`, and who lends them."""
    twin: Any = nn.ModuleList([deepcopy(block)])
    adapt(twin)
    (_, experts), *_ = experts_modules(twin)
    held = Held(weights)
    for name, value in (("lessor", held), ("layer", 0), ("experts", len(weights)), ("linear", F.linear)):
        setattr(experts, f"locum_{name}", value)
    return twin[0], held


def only_chosen_rows(model: nn.Module) -> None:
    """Have llama4's eager experts leave out the rows of tokens that did not choose them, which are zero.

    Nothing else changes: the same bmm, with as many rows as locum's product has.
    """
    for module in model.modules():
        if type(module).__name__ == "Llama4TextExperts":
            module.forward = _Chosen(module)


class _Chosen:
    def __init__(self, experts: Any) -> None:
        self.experts = experts

    def __call__(self, scaled: Tensor) -> Tensor:
        experts = self.experts
        rows_ETH = scaled.view(experts.num_experts, -1, experts.hidden_size)
        out_ETH = torch.zeros_like(rows_ETH)
        for expert, rows_TH in enumerate(rows_ETH):
            chosen = rows_TH.abs().sum(dim=1) > 0
            if not chosen.any():
                continue
            gate_up = torch.bmm(rows_TH[chosen][None], experts.gate_up_proj[expert][None])
            gate, up = gate_up.chunk(2, dim=-1)
            product = torch.bmm(up * experts.act_fn(gate), experts.down_proj[expert][None])
            out_ETH[expert, chosen] = product[0]
        return out_ETH.view(-1, experts.hidden_size)

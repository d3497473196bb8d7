"""DBRX: the matrices of all experts of a layer lie below one another in one of [E * I, H].

Per expert all three are [I, H]: gate `w1`, up `v1`, and down `w2`, which is multiplied from the other side.
The router returns logits alone, and the block makes weights and ids of them.

Axes: E experts, I intermediate, H hidden, N rows, B prompts, T tokens, K chosen.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from locum.backbone.adapters.base import decorate
from locum.backbone.experts import Way
from locum.backbone.runtime import experts_function
from locum.kernels.reference import Linear

_NAMES = ("w1", "v1", "w2")


def adapt(block: Any) -> None:
    """Adapt a `DbrxFFN`."""
    experts = block.experts
    for name in _NAMES:
        flat = getattr(experts.mlp, name)
        shape = experts.num_experts, experts.ffn_hidden_size, experts.hidden_size
        setattr(experts, name, flat.detach().view(shape))
    experts.act_fn = experts.mlp.activation_fn
    del experts.mlp
    decorate(experts, Way(_NAMES, {f"mlp.{name}": name for name in _NAMES}, forward=_forward))
    experts.forward = partial(_run, experts)
    block.router.locum_choice = block.route_tokens_to_experts


def _run(experts: Any, x_BTH: Tensor, ids_NK: Tensor, weights_NK: Tensor) -> Tensor:
    rows_NH = x_BTH.reshape(-1, x_BTH.shape[-1])
    return experts_function(experts, rows_NH, ids_NK, weights_NK).view(x_BTH.shape)


def _forward(
    experts: Any, x_NH: Tensor, scale_N1: Tensor, weights: Mapping[str, Tensor], linear: Linear
) -> Tensor:
    gate_NI = linear(x_NH, weights["w1"], None)
    up_NI = linear(x_NH, weights["v1"], None)
    h_NI: Tensor = experts.act_fn(gate_NI) * up_NI
    return h_NI @ weights["w2"] * scale_N1

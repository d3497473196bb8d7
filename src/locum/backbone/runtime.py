"""The registered experts function: each MoE layer's tokens through leased slots.

Axes: T tokens, K chosen per token, H hidden, E experts, N rows routed to one expert.

Every expert's weighted output lands in its own place of a [T, K, H] buffer, places in ascending expert id,
and the places are summed in that order. So the sum does not know which expert arrived first (law A), and it
adds in the order of transformers' eager experts (law B).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from locum.backbone.experts import IMPLEMENTATION, experts_modules, sum_dtype, way_of
from locum.errors import ModelError
from locum.kernels.reference import Linear, expert_forward
from locum.residency.mover.base import Slot


class Lessor(Protocol):
    """What the runtime needs from whoever decides where experts are: `engine.residents.Residents` in real
    life.
    """

    def step(self, inputs: Tensor, given: Mapping[str, Any]) -> None:
        """A forward pass over `inputs` [B, T], token ids or what stands for them, begins. `given` is what the
        model was called with.
        """

    def stepped(self) -> None:
        """The forward pass is over."""

    def chosen(self, layer: int, ids_TK: Tensor, weights_TK: Tensor) -> None:
        """MoE layer number `layer` will use these experts with these weights."""

    def acquire(self, layer: int, counts: Mapping[int, int], x_TH: Tensor) -> Any:
        """A lease on the experts of MoE layer number `layer`; `counts` gives tokens per expert, ascending
        ids.
        """

    def weights(self, key: int, slot: Slot) -> Mapping[str, Tensor]:
        """The tensors of the expert that lies in `slot`."""

    def expert_of(self, key: int) -> int:
        """The expert's number in its layer."""


class Routing:
    """Who goes where in one layer and step. Ids outside 0..E-1 mean "no expert" and are left out."""

    def __init__(self, ids_TK: Tensor, experts: int) -> None:
        self.tokens, self.width = ids_TK.shape
        self._ids_TK, self._experts = ids_TK, experts
        if self.tokens == 1:
            self._row = ids_TK[0].tolist()
            chosen = sorted(range(self.width), key=self._row.__getitem__)
            self._single = {
                self._row[k]: (place, k) for place, k in enumerate(chosen) if self._row[k] < experts
            }
            self.counts = dict.fromkeys(self._single, 1)
            return
        # k-major order, as torch.where on transformers' transposed expert mask gives it: the same rows in the
        # same order in every matrix product
        flat = ids_TK.T.reshape(-1)
        order = flat.argsort(stable=True)
        tallies = torch.bincount(flat.clamp(max=experts), minlength=experts + 1).tolist()
        place_TK = ids_TK.argsort(dim=1, stable=True).argsort(dim=1)
        self._rows: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        start = 0
        for expert, tally in enumerate(tallies[:experts]):
            if tally:
                picked = order[start : start + tally]
                token_N, k_N = picked % self.tokens, picked // self.tokens
                self._rows[expert] = (token_N, k_N, place_TK[token_N, k_N])
            start += tally
        self.counts = {expert: tallies[expert] for expert in self._rows}

    def outputs(self, x_TH: Tensor, dtype: torch.dtype) -> Tensor:
        """The zeroed buffer [T, K, H] that `scatter` fills."""
        return x_TH.new_zeros(self.tokens, self.width, x_TH.shape[-1], dtype=dtype)

    def gather(self, expert: int, x_TH: Tensor, weights_TK: Tensor) -> tuple[Tensor, Tensor]:
        """The rows [N, H] that `expert` works on and their weights [N, 1]."""
        if self.tokens == 1:
            _, k = self._single[expert]
            return x_TH, weights_TK[:, k, None]
        token_N, k_N, _ = self._rows[expert]
        return x_TH[token_N], weights_TK[token_N, k_N, None]

    def scatter(self, expert: int, out_TKH: Tensor, rows_NH: Tensor) -> None:
        """Put the weighted rows of `expert` in their places."""
        if self.tokens == 1:
            place, _ = self._single[expert]
            out_TKH[0, place] = rows_NH[0]
            return
        token_N, _, place_N = self._rows[expert]
        out_TKH[token_N, place_N] = rows_NH

    def give_back(self, x_TH: Tensor, weights_TK: Tensor, out_TKH: Tensor) -> None:
        """Put the weighted rows themselves in the places of the ids that mean "no expert"."""
        token_N, k_N = (self._ids_TK >= self._experts).nonzero(as_tuple=True)
        place_TK = self._ids_TK.argsort(dim=1, stable=True).argsort(dim=1)
        rows_NH = x_TH[token_N] * weights_TK[token_N, k_N, None]
        out_TKH[token_N, place_TK[token_N, k_N]] = rows_NH.to(out_TKH.dtype)


def combine(out_TKH: Tensor) -> Tensor:
    """Sum over K in ascending place, one rounding per addition. Starts from +0 as transformers does (-0 +
    0).
    """
    total_TH = torch.zeros_like(out_TKH[:, 0])
    for place in range(out_TKH.shape[1]):
        total_TH += out_TKH[:, place]
    return total_TH


def run_layer(  # noqa: PLR0917 - what transformers hands over, in its order
    module: Any,
    lessor: Lessor,
    layer: int,
    x_TH: Tensor,
    ids_TK: Tensor,
    weights_TK: Tensor,
    linear: Linear = F.linear,
) -> Tensor:
    """The routed experts' output [T, H] of one MoE layer, hits first, the rest as they land."""
    routing, way = Routing(ids_TK, module.locum_experts), way_of(module)
    lessor.chosen(layer, ids_TK, weights_TK)
    out_TKH = routing.outputs(x_TH, sum_dtype(module, x_TH, weights_TK))
    with lessor.acquire(layer, routing.counts, x_TH) as lease:
        for key, slot in lease:
            expert = lessor.expert_of(key)
            rows_NH, scale_N1 = routing.gather(expert, x_TH, weights_TK)
            weights = lessor.weights(key, slot)
            if way.forward is None:
                result_NH = expert_forward(module, rows_NH, weights, linear) * scale_N1
            else:
                result_NH = way.forward(module, rows_NH, scale_N1, weights, linear)
            routing.scatter(expert, out_TKH, result_NH.to(out_TKH.dtype))
    if way.identity:
        routing.give_back(x_TH, weights_TK, out_TKH)
    return combine(out_TKH).to(x_TH.dtype)


def experts_function(
    module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """What an experts module's forward does: rows [T, H], ids and weights [T, K] to the routed output [T, H].

    Raises `ModelError` when nobody provides the experts.
    """
    lessor = getattr(module, "locum_lessor", None)
    if lessor is None:
        raise ModelError(
            "this model's experts were taken out and nothing provides them",
            todo="Load it with locum.load(), and do not use it after close()",
        )
    layer, linear = module.locum_layer, module.locum_linear
    return run_layer(module, lessor, layer, hidden_states, top_k_index, top_k_weights, linear)


def attach(
    model: nn.Module, lessor: Lessor, experts: Iterable[int], linear: Linear = F.linear
) -> Callable[[], None]:
    """Have `model`'s experts provided by `lessor`.

    `experts` gives each MoE layer's number of experts; `linear` multiplies their weights.

    Returns the function that undoes it: afterwards the model's experts raise `ModelError`.
    """
    modules: list[Any] = [module for _, module in experts_modules(model)]
    for number, (module, count) in enumerate(zip(modules, experts, strict=True)):
        module.locum_layer, module.locum_experts, module.locum_lessor = number, count, lessor
        module.locum_linear = linear

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = kwargs.get("input_ids", args[0] if args else None)
        if inputs is None:
            inputs = kwargs["inputs_embeds"][..., 0]
        lessor.step(inputs, kwargs)

    hooks = [
        model.register_forward_pre_hook(begin, with_kwargs=True),
        model.register_forward_hook(lambda *_: lessor.stepped()),
    ]

    def detach() -> None:
        for hook in hooks:
            hook.remove()
        for module in modules:
            module.locum_lessor = None

    return detach


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_function)

"""Llama 4: scores multiply what goes into an expert, not what comes out of it.

transformers runs every expert on every token, with a score of zero for those not chosen, whose output is
then zero, and adds up over all experts. Here only the chosen ones run.

Axes: T tokens, E experts, K chosen, H hidden, N rows of one expert.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from locum.backbone.adapters.base import decorate
from locum.backbone.experts import Way
from locum.kernels.reference import Linear, expert_forward


def adapt(block: Any) -> None:
    """Adapt a `Llama4TextMoe`."""
    decorate(block.experts, Way(wide_sum=True, forward=_forward), transposed=True)
    block.router.locum_choice = partial(_choice, block.top_k)
    block.forward = partial(_run, block)


def _choice(top_k: int, found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    scores_TE, logits_TE = found
    ids_TK = torch.topk(logits_TE, top_k, dim=1).indices
    return scores_TE.gather(1, ids_TK), ids_TK


def _run(block: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    x_TH = hidden_states.reshape(-1, block.hidden_dim)
    found = block.router(x_TH)
    scores_TK, ids_TK = block.router.locum_choice(found)
    out_TH: Tensor = block.shared_expert(x_TH)
    out_TH.add_(block.experts(x_TH, ids_TK, scores_TK))
    return out_TH, found[1]


def _forward(
    experts: Any, x_NH: Tensor, scale_N1: Tensor, weights: Mapping[str, Tensor], linear: Linear
) -> Tensor:
    return expert_forward(experts, x_NH * scale_N1, weights, linear)

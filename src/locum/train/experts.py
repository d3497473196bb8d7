"""Routed experts that can be trained quickly on a CPU: tokens sorted by expert, one product per expert.

transformers' own implementations that can be differentiated are slower there (by a quarter and more). This
one is registered as "locum-train"; any decorated family trains with it.

Axes: T tokens, K chosen per token, N = T * K rows sorted by expert, H hidden, I intermediate, E experts.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

IMPLEMENTATION = "locum-train"


class _PerExpert(torch.autograd.Function):
    """y[rows of e] = x[rows of e] w[e]^T for each expert; rows come sorted, `counts` of each expert."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, w_EOI: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(x_NI, w_EOI)
        ctx.counts = counts
        y_NO = x_NI.new_empty(len(x_NI), w_EOI.shape[1])
        for rows, w_OI in zip(_parts(counts), w_EOI, strict=True):
            if rows.stop > rows.start:
                torch.mm(x_NI[rows], w_OI.T, out=y_NO[rows])
        return y_NO

    @staticmethod
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor, Tensor, None]:
        x_NI, w_EOI = ctx.saved_tensors
        dx_NI, dw_EOI = torch.empty_like(x_NI), torch.zeros_like(w_EOI)
        for rows, w_OI, dw_OI in zip(_parts(ctx.counts), w_EOI, dw_EOI, strict=True):
            if rows.stop > rows.start:
                torch.mm(dy_NO[rows], w_OI, out=dx_NI[rows])
                torch.mm(dy_NO[rows].T, x_NI[rows], out=dw_OI)
        return dx_NI, dw_EOI, None


def _parts(counts: list[int]) -> list[slice]:
    ends = [0]
    for count in counts:
        ends.append(ends[-1] + count)
    return [slice(begin, end) for begin, end in itertools.pairwise(ends)]


def _forward(module: Any, x_TH: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
    tokens, width = ids_TK.shape
    flat = ids_TK.reshape(-1)
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=module.gate_up_proj.shape[0]).tolist()
    x_NH = x_TH[order // width]
    gate, up = _PerExpert.apply(x_NH, module.gate_up_proj, counts).chunk(2, dim=-1)
    inner_NI = F.silu(gate) * up * weights_TK.reshape(-1, 1)[order].to(x_TH.dtype)
    y_NH = _PerExpert.apply(inner_NI, module.down_proj, counts)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    total_TH: Tensor = y_NH[back].view(tokens, width, -1).sum(1)
    return total_TH


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _forward)

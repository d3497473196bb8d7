"""The optimiser: Muon for matrices, AdamW for the rest, or AdamW for everything.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon); the scale 0.2 * sqrt(larger side), so that its updates are as large as
Adam's: Liu et al., "Muon is scalable for LLM training", 2025 (arXiv 2502.16982).
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix with all singular values 1, over the last two axes, by Newton-Schulz steps."""
    a, b, c = _COEFFICIENTS
    tall = g.shape[-2] > g.shape[-1]
    x: Tensor = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for parameters whose last two axes are a matrix."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures
        """One update."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - MOMENTUM)
                update = orthogonal(p.grad.lerp(momentum, MOMENTUM))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape[-2:])))


def optimisers(
    model: nn.Module, kind: str, lr: float, matrix_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimisers of a model. Embeddings, routers, norms and biases are always AdamW's."""
    matrices, tables, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            vectors.append(parameter)
        elif "embed" in name or ".gate." in name or "lm_head" in name:
            tables.append(parameter)
        else:
            matrices.append(parameter)
    betas = (0.9, 0.95)
    plain = {"params": vectors, "weight_decay": 0.0}
    if kind == "adamw":
        groups = [{"params": [*matrices, *tables], "weight_decay": weight_decay}, plain]
        return [torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)]
    rest = [{"params": tables, "weight_decay": 0.0}, plain]
    return [Muon(matrices, matrix_lr, weight_decay), torch.optim.AdamW(rest, lr=lr, betas=betas, fused=True)]

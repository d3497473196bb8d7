"""Load balancing while training: the Switch loss per layer, and how even the load is.

Source: Fedus, Zoph, Shazeer, "Switch Transformers", 2021 (arXiv 2101.03961), equation 4, with top-k counts.
Each layer has a loss of its own, because counted together one layer's collapse hides behind another; their
mean is what the recipe weighs.

Axes: T tokens, E experts, K chosen, L layers.
"""

from typing import Any

import torch
from torch import Tensor, nn

from locum.backbone.routers import find_routers


class Balance:
    """Listens to a model's routers. After a forward pass `loss()` and `load()` speak of that pass."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: list[tuple[Tensor, Tensor]] = []
        self.routers = [router for router in find_routers(model) if router is not None]
        for router in self.routers:
            router.register_forward_hook(self._listen)
        model.register_forward_pre_hook(lambda *_: self._seen.clear())

    def _listen(self, router: nn.Module, inputs: Any, output: tuple[Tensor, ...]) -> None:
        self._seen.append((output[0].float(), output[2]))

    def loss(self) -> Tensor:
        """Mean over layers of E * sum over E of (share of choices) * (mean probability); 1 when even."""
        total = torch.zeros(())
        for logits_TE, ids_TK in self._seen:
            experts = logits_TE.shape[-1]
            share_E = torch.bincount(ids_TK.reshape(-1), minlength=experts).float() / ids_TK.numel()
            total = total + experts * (share_E * logits_TE.softmax(-1).mean(0)).sum()
        return total / max(1, len(self._seen))

    def load(self) -> Tensor:
        """[L, E]: each layer's share of choices per expert, times E: 1 everywhere when even."""
        rows = [
            torch.bincount(ids.reshape(-1), minlength=logits.shape[-1]) * (logits.shape[-1] / ids.numel())
            for logits, ids in self._seen
        ]
        return torch.stack(rows) if rows else torch.zeros(0, 0)

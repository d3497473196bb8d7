"""The backbone's own linear layers, through `kernels.products`: a decoded token reads them all."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from locum.kernels.products import Products


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """The layers that can be multiplied natively: plain ones, bfloat16, without a bias."""
    plain = [module for module in model.modules() if type(module) is nn.Linear]  # no subclass: it may differ
    return [m for m in plain if getattr(m, "bias", None) is None and m.weight.dtype == torch.bfloat16]


def attach_linears(model: nn.Module, products: Products) -> Callable[[], None]:
    """Let `products` multiply for `model`'s linear layers. Returns the function that undoes it."""
    found = [module for module in linear_layers(model) if products.try_weight(module.weight)]
    for module in found:
        module.forward = partial(_forward, module, products)  # type: ignore[method-assign]

    def detach() -> None:
        for module in found:
            del module.forward

    return detach


def _forward(module: nn.Linear, products: Products, x: Tensor) -> Tensor:
    return products.linear(x, module.weight)

"""The backbone's own weights through `kernels.products`: a decoded token reads them all.

Linear layers are called by their `forward`, which is replaced. Routers call `F.linear` on a weight of their
own in the middle of theirs, so their weight is replaced by one that knows how to be multiplied.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor, nn

from locum.kernels.products import Products


class RoutedWeight(nn.Parameter):
    """A weight whose `F.linear` is `products.linear`. To everything else it is the plain tensor."""

    products: Products

    @classmethod
    def of(cls, weight: Tensor, products: Products) -> Self:
        """The same memory under this class."""
        made = torch.Tensor._make_subclass(cls, weight.data, weight.requires_grad)
        made.products = products
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch for every operation on such a weight."""
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.linear and len(args) == 2 and not kwargs and isinstance(args[1], RoutedWeight):
                return args[1].products.linear(args[0], args[1])
            return func(*args, **(kwargs or {}))


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """The layers that can be multiplied natively: plain ones, bfloat16, without a bias."""
    plain = [module for module in model.modules() if type(module) is nn.Linear]  # no subclass: it may differ
    return [m for m in plain if getattr(m, "bias", None) is None and m.weight.dtype == torch.bfloat16]


def attach_linears(
    model: nn.Module, products: Products, routers: Iterable[nn.Module | None] = ()
) -> Callable[[], None]:
    """Let `products` multiply for `model`'s linear layers and for `routers` with a two-dimensional `weight`.

    Returns the function that undoes it.
    """
    layers = [module for module in linear_layers(model) if products.try_weight(module.weight)]
    for module in layers:
        module.forward = partial(_forward, module, products)  # type: ignore[method-assign]
    weights: list[tuple[nn.Module, Tensor]] = []
    for router in routers:
        weight = router._parameters.get("weight") if router is not None else None
        if router is not None and weight is not None and weight.dim() == 2 and products.try_weight(weight):
            weights.append((router, weight))
            router._parameters["weight"] = RoutedWeight.of(weight, products)

    def detach() -> None:
        for module in layers:
            del module.forward
        for router, weight in weights:
            router._parameters["weight"] = cast("nn.Parameter", weight)

    return detach


def _forward(module: nn.Linear, products: Products, x: Tensor) -> Tensor:
    return products.linear(x, module.weight)

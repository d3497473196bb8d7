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

    def __deepcopy__(self, memo: dict[int, object]) -> nn.Parameter:
        return cast("nn.Parameter", memo.setdefault(id(self), self.plain().__deepcopy__(memo)))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.plain().__reduce_ex__(protocol)

    def plain(self) -> nn.Parameter:
        """The same memory as an ordinary parameter."""
        return nn.Parameter(torch.Tensor.detach(self), self.requires_grad)

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

    Returns the function that undoes it, and leaves alone what somebody else has put there meanwhile.
    """
    undo = [
        *[
            _attach_layer(layer, products)
            for layer in linear_layers(model)
            if products.try_weight(layer.weight)
        ],
        *[_attach_router(router, products) for router in routers if router is not None],
    ]

    def detach() -> None:
        for step in undo:
            step()

    return detach


def _attach_layer(layer: nn.Linear, products: Products) -> Callable[[], None]:
    if "forward" in vars(layer):  # somebody has wrapped it: theirs to decide
        return lambda: None
    ours = partial(_forward, layer, products)
    layer.forward = ours  # type: ignore[method-assign]

    def detach() -> None:
        if vars(layer).get("forward") is ours:
            del layer.forward

    return detach


def _attach_router(router: nn.Module, products: Products) -> Callable[[], None]:
    weight = router._parameters.get("weight")
    if type(weight) is not nn.Parameter or weight.dim() != 2 or not products.try_weight(weight):
        return lambda: None
    ours = RoutedWeight.of(weight, products)
    router._parameters["weight"] = ours

    def detach() -> None:
        if router._parameters.get("weight") is ours:
            weight.data = ours.data  # moved or cast meanwhile, perhaps
            router._parameters["weight"] = weight

    return detach


def _forward(layer: nn.Linear, products: Products, x: Tensor) -> Tensor:
    return products.linear(x, layer.weight)

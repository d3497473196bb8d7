"""What an experts module is, and how its parameters are taken off.

transformers 5.23 marks every routed-experts class with `@use_experts_implementation`, which leaves the
layout on the instance (`is_transposed`, `has_bias`, `has_gate`, ...). That decoration is the only thing
locum looks for.
"""

from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedModel

PARAMETERS = ("gate_up_proj", "gate_up_proj_bias", "up_proj", "up_proj_bias", "down_proj", "down_proj_bias")
"""Every parameter a decorated experts class may hold, in the order of an expert's image."""

IMPLEMENTATION = "locum"
"""The name under which locum registers with transformers' experts interface."""


def is_experts(module: nn.Module) -> bool:
    """True for an instance of a class decorated with `use_experts_implementation`."""
    return hasattr(module, "is_concatenated") and hasattr(module, "_is_expert_parallel")


def experts_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of every routed-experts module, in forward order."""
    return ((name, module) for name, module in model.named_modules() if is_experts(module))


def expert_shapes(module: nn.Module) -> dict[str, Tensor]:
    """The module's expert tensors on the meta device by name, [E, ...] each, stripped or not."""
    found = {name: getattr(module, name, None) for name in PARAMETERS}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def strip(model: PreTrainedModel) -> None:
    """Take the routed experts' parameters off a skeleton on the meta device.

    A plain meta tensor stays under each name, because the families' weight initialisers touch it; being no
    Parameter, it is neither loaded nor initialised nor counted.
    """
    for _, module in experts_modules(model):
        for name in PARAMETERS:
            parameter = module._parameters.pop(name, None)
            if parameter is not None:
                setattr(module, name, parameter.detach())
        module._is_hf_initialized = True  # type: ignore[assignment]
    ignored = set(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    ignored.add(r"(^|\.)experts\.(.*\.)?(" + "|".join(PARAMETERS) + r")$")
    model._keys_to_ignore_on_load_unexpected = ignored

"""What an experts module is, and how its parameters are taken off.

transformers 5.23 marks every routed-experts class with `@use_experts_implementation`, which leaves the
layout on the instance (`is_transposed`, `has_bias`, `has_gate`, ...). That decoration is the only thing
locum looks for.
"""

import inspect
import re
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PARAMETERS = ("gate_up_proj", "gate_up_proj_bias", "up_proj", "up_proj_bias", "down_proj", "down_proj_bias")
"""Every parameter a decorated experts class may hold, in the order of an expert's image."""

_WIDER_SUM = re.compile(r"zeros_like\(hidden_states, dtype=(top_k_weights\.dtype|torch\.float32)\)")

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


def experts_width(module: nn.Module) -> int:
    """The length of the rows that the experts take and give."""
    transposed = bool(getattr(module, "is_transposed", False))
    return int(expert_shapes(module)["down_proj"].shape[2 if transposed else 1])


def sum_dtype(module: nn.Module, x_TH: Tensor, weights_TK: Tensor) -> torch.dtype:
    """The dtype in which transformers' eager experts of this class add up: mostly that of the rows."""
    kind = _sum_kind(type(module))  # type: ignore[arg-type]  # mypy looks at the hash of its instances
    return {"top_k_weights.dtype": weights_TK.dtype, "torch.float32": torch.float32}.get(kind, x_TH.dtype)


@cache
def _sum_kind(cls: type) -> str:
    # nothing but the source tells: the class's own forward is what law B is about
    found = _WIDER_SUM.search(inspect.getsource(cls))
    return found[1] if found else ""


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

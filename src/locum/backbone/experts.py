"""What an experts module is, and how its parameters are taken off.

transformers 5.23 marks every routed-experts class with `@use_experts_implementation`, which leaves the
layout on the instance (`is_transposed`, `has_bias`, `has_gate`, ...). That decoration is the only thing
locum looks for; `backbone.adapters` gives it to the classes that lack it.

Axes: N rows routed to one expert, H hidden, T tokens, K chosen.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from locum.kernels.reference import Linear

PARAMETERS = ("gate_up_proj", "gate_up_proj_bias", "up_proj", "up_proj_bias", "down_proj", "down_proj_bias")
"""Every parameter a decorated experts class may hold, in the order of an expert's image."""

_WIDER_SUM = re.compile(r"zeros_like\(hidden_states, dtype=(top_k_weights\.dtype|torch\.float32)\)")

IMPLEMENTATION = "locum"
"""The name under which locum registers with transformers' experts interface."""


Weighted = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor], Linear], Tensor]
"""(module, rows [N, H], their scores [N, 1], the expert's tensors, product) to the weighted output [N, H]."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where an experts module departs from a decorated one. Set as `locum_way` by an adapter."""

    parameters: tuple[str, ...] = PARAMETERS
    """The tensors of an expert, in the order of its image."""
    stored: Mapping[str, str] = field(default_factory=dict)
    """Names below the module in the checkpoint, where the parameter's own is another: stored to own. A tensor
    that lies there flat, experts and rows in one axis, counts as [E, rows, ...].
    """
    beyond: int = 0
    """Numbers after the last expert that the files may use for something else, which is left there."""
    identity: bool = False
    """Ids from the number of experts on give the row back, instead of nothing."""
    wide_sum: bool = False
    """Eager adds up in float32 at least."""
    forward: Weighted | None = None
    """The weighted output of one expert, where it is not `expert_forward` times the scores."""


DECORATED = Way()
"""The way of every decorated experts class."""


def way_of(module: nn.Module) -> Way:
    """How an experts module departs from a decorated one."""
    found = module.__dict__.get("locum_way", DECORATED)
    assert isinstance(found, Way)
    return found


def is_experts(module: nn.Module) -> bool:
    """True for an instance of a class decorated with `use_experts_implementation`."""
    return hasattr(module, "is_concatenated") and hasattr(module, "_is_expert_parallel")


def experts_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of every routed-experts module, in forward order."""
    return ((name, module) for name, module in model.named_modules() if is_experts(module))


def expert_shapes(module: nn.Module) -> dict[str, Tensor]:
    """The module's expert tensors on the meta device by name, [E, ...] each, stripped or not."""
    found = {name: getattr(module, name, None) for name in way_of(module).parameters}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def experts_width(module: nn.Module) -> int:
    """The length of the rows that the experts take and give."""
    transposed = bool(getattr(module, "is_transposed", False))
    return int(expert_shapes(module)["down_proj"].shape[2 if transposed else 1])


def sum_dtype(module: nn.Module, x_TH: Tensor, weights_TK: Tensor) -> torch.dtype:
    """The dtype in which transformers' eager experts of this class add up: mostly that of the rows."""
    if way_of(module).wide_sum:
        return torch.promote_types(x_TH.dtype, torch.float32)
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
    names = set(PARAMETERS)
    for _, module in experts_modules(model):
        way = way_of(module)
        names.update(way.parameters, way.stored)
        for name in way.parameters:
            parameter = module._parameters.pop(name, None)
            if parameter is not None:
                setattr(module, name, parameter.detach())
        module._is_hf_initialized = True  # type: ignore[assignment]
    ignored = set(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    ignored.add(r"(^|\.)experts\.(.*\.)?(" + "|".join(sorted(map(re.escape, names))) + r")$")
    model._keys_to_ignore_on_load_unexpected = ignored

"""What an adapter does: give one experts module the decoration that transformers' own class lacks.

An adapter is called with a module on the meta device, before any weight is loaded. It may set attributes of
this one instance, replace its `forward` and take submodules away; it leaves classes alone, because others in
the process may use them. Afterwards the experts module has what `use_experts_implementation` would have set,
calls the registered experts function with (rows [T, H], ids [T, K], weights [T, K]), and says in a
`backbone.experts.Way` where it departs from decorated ones. A router that does not return a tuple beginning
(logits, weights, ids) gets a `locum_choice`, see `backbone.routers`.
"""

from functools import partial
from typing import Any

from torch import Tensor

from locum.backbone.experts import DECORATED, Way
from locum.backbone.runtime import experts_function


def decorate(experts: Any, way: Way = DECORATED, *, transposed: bool = False) -> None:
    """Mark an experts module of three-dimensional tensors with gate and up in one, without biases.

    `transposed`: an expert's matrices are [in, out].
    """
    experts.has_gate, experts.has_bias, experts.has_post_expert_norm = True, False, False
    experts.is_transposed, experts.is_concatenated, experts._is_expert_parallel = transposed, True, False
    experts.locum_way = way
    if not hasattr(experts, "_apply_gate"):
        experts._apply_gate = partial(_gate, experts)
    experts.forward = partial(experts_function, experts)


def _gate(experts: Any, gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    gated: Tensor = experts.act_fn(gate) * up
    return gated

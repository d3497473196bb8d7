"""One expert in plain torch: the arithmetic of transformers' eager experts, on weights that lie in a slot.

Axes: N rows routed to this expert, H hidden, I intermediate.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""`F.linear`, or what gives the same bits."""


def expert_forward(
    module: Any, x_NH: Tensor, weights: Mapping[str, Tensor], linear: Linear = F.linear
) -> Tensor:
    """The output [N, H] of one expert for the rows `x_NH`.

    `module` is a transformers experts module: it says the layout (`has_gate`, `is_transposed`, `has_bias`)
    and holds the activation. `weights` are this expert's tensors by parameter name, without the expert
    axis. Kept operation for operation as transformers' eager forward, because law B asks for equal bits.
    """
    up = "gate_up_proj" if module.has_gate else "up_proj"
    h_NI = _project(module, x_NH, weights, up, linear)
    h_NI = module._apply_gate(h_NI) if module.has_gate else module.act_fn(h_NI)
    out_NH = _project(module, h_NI, weights, "down_proj", linear)
    return module.post_expert_norm(out_NH) if module.has_post_expert_norm else out_NH


def _project(module: Any, x: Tensor, weights: Mapping[str, Tensor], name: str, linear: Linear) -> Tensor:
    if not module.is_transposed:
        return linear(x, weights[name], weights.get(f"{name}_bias"))
    y = x @ weights[name]
    return y + weights[f"{name}_bias"] if module.has_bias else y

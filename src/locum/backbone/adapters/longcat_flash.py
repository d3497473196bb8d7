"""LongCat-Flash: ids after the last expert are "zero experts", which cost nothing and give the row back.

transformers allocates gate and up for them as well (and saves them), but never uses these rows.
"""

from typing import Any

from locum.backbone.adapters.base import decorate
from locum.backbone.experts import Way


def adapt(experts: Any) -> None:
    """Adapt a `LongcatFlashExperts`."""
    count = experts.num_routed_experts
    experts._parameters.update(gate_up_proj=_first(experts.gate_up_proj, count))
    decorate(experts, Way(beyond=experts.zero_expert_num, identity=True))


def _first(parameter: Any, count: int) -> Any:
    return type(parameter)(parameter.detach()[:count])

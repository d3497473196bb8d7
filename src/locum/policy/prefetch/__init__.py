"""What to fetch before it is asked for. `create(name, **params)`; the contract is in `base.py`."""

from typing import Any

from locum.policy.prefetch.base import Prediction, Prefetcher, Want, confidence
from locum.policy.registry import check_parameters, find, parse

PREFETCH = {
    "none": "locum.policy.prefetch.none:NoPrefetch",
    "next-gate": "locum.policy.prefetch.next_gate:NextGate",
}
"""Prefetch policies by name, as `module:Class`."""

__all__ = ["PREFETCH", "Prediction", "Prefetcher", "Want", "confidence", "create", "create_for"]


def create(name: str, **params: Any) -> Prefetcher:
    """The prefetch policy `name`, which may hold parameters too (`next-gate:distance=2`).

    Raises `UsageError` for an unknown name or a parameter it does not take.
    """
    name, own = parse(name)
    params = own | params
    method = find("prefetch", PREFETCH, name)
    check_parameters("prefetch", name, method, params)
    prefetcher: Prefetcher = method(**params)
    return prefetcher


def create_for(name: str, top_k: int, **params: Any) -> Prefetcher:
    """`create` for a model that chooses `top_k` experts: next-gate wants as many for each layer that it looks
    ahead, unless told otherwise.
    """
    name, own = parse(name)
    params = own | params
    if name == "next-gate" and isinstance(distance := params.get("distance", 1), int):
        params.setdefault("window", top_k * max(1, distance))
    return create(name, **params)

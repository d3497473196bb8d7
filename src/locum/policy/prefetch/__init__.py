"""What to fetch before it is asked for. `create(name, **params)`; the contract is in `base.py`."""

from typing import Any

from locum.policy.prefetch.base import Prediction, Prefetcher, Want, confidence
from locum.policy.registry import check_parameters, find

PREFETCH = {
    "none": "locum.policy.prefetch.none:NoPrefetch",
    "next-gate": "locum.policy.prefetch.next_gate:NextGate",
}
"""Prefetch policies by name, as `module:Class`."""

__all__ = ["PREFETCH", "Prediction", "Prefetcher", "Want", "confidence", "create", "create_for"]


def create(name: str, **params: Any) -> Prefetcher:
    """The prefetch policy `name`. Raises `UsageError` for an unknown name or a parameter it does not take."""
    method = find("prefetch", PREFETCH, name)
    check_parameters("prefetch", name, method, params)
    prefetcher: Prefetcher = method(**params)
    return prefetcher


def create_for(name: str, top_k: int, **params: Any) -> Prefetcher:
    """`create` for a model that chooses `top_k` experts: next-gate wants as many unless told otherwise."""
    if name == "next-gate":
        params.setdefault("window", top_k)
    return create(name, **params)

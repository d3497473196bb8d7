"""compressed-tensors' `config_groups`: which kind of quantisation a module's weights have."""

from typing import Any

from locum.model.schemes.base import Declared
from locum.model.schemes.patterns import matches


def weights_of(module: str, declared: Declared) -> dict[str, Any]:
    """The quantisation of a module's weights: the group that names it, else the first that names a class.

    Raises `UnsupportedError` for a pattern that is not matched here.
    """
    groups = declared.get("config_groups")
    listed = (
        [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    )
    fallback: dict[str, Any] = {}
    for group in listed:
        weights = group.get("weights")
        targets = group.get("targets")
        if not isinstance(weights, dict) or not isinstance(targets, list):
            continue
        for target in map(str, targets):
            if target == module or (target.startswith("re:") and matches(target[3:], module)):
                return weights
            if not target.startswith("re:"):
                fallback = fallback or weights
    return fallback

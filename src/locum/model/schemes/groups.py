"""compressed-tensors' `config_groups`: which kind of quantisation a module's weights have."""

import re
from typing import Any

from locum.model.schemes.base import Declared


def weights_of(module: str, declared: Declared) -> dict[str, Any]:
    """The quantisation of a module's weights: the group that names it, else the first that names a class."""
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
            if target == module or (target.startswith("re:") and _found(target[3:], module)):
                return weights
            if not target.startswith("re:"):
                fallback = fallback or weights
    return fallback


def _found(pattern: str, module: str) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False

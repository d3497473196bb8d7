"""The registry both kinds of policy share: a name stands for a class that is imported only when asked for."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from locum.errors import UsageError


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """`name:param=value:...` as (name, parameters): how a policy with parameters is written in one word.

    Values are whole numbers, numbers, or words. Raises `UsageError` for a part that is not `param=value`.
    """
    name, *parts = text.split(":")
    params: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise UsageError("a policy's parameters are written name:param=value", got=text)
        params[key.strip().replace("-", "_")] = _value(value.strip())
    return name.strip(), params


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def find(kind: str, table: Mapping[str, str], name: str) -> type[Any]:
    """The class that `table` maps `name` to, given there as `module:Class`. Raises `UsageError`."""
    if name not in table:
        raise UsageError(f"no {kind} policy is called {name}", allowed=", ".join(table), got=name)
    module, _, attribute = table[name].partition(":")
    found: type[Any] = getattr(import_module(module), attribute)
    return found


def check_parameters(kind: str, name: str, method: type[Any], params: Mapping[str, Any]) -> None:
    """Refuse parameters that `method` does not take. Raises `UsageError` naming those it does."""
    taken = [p for p in inspect.signature(method).parameters if p != "scope"]
    unknown = sorted(set(params).difference(taken))
    if unknown:
        raise UsageError(
            f"the {kind} policy {name} has no parameter {', '.join(unknown)}",
            allowed=", ".join(taken) or "no parameters",
        )

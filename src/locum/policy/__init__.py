"""Decisions and nothing else: which expert to evict, what to fetch ahead. Small state over integers. No
torch.

`create(name, **params)` gives a factory of eviction policies; `policy.prefetch.create` gives a prefetcher.
The contracts are in `policy/base.py` and `policy/prefetch/base.py`, the conformance suite in
`policy/check.py`. A new method is one new file and one line in `EVICTION`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from locum.policy.base import EvictionPolicy, Scope
from locum.policy.registry import check_parameters, find, parse

EVICTION = {
    "lru": "locum.policy.lru:LRU",
    "lfu": "locum.policy.lfu:LFU",
    "lfu-aging": "locum.policy.lfu:AgingLFU",
    "fifo": "locum.policy.fifo:FIFO",
    "arc": "locum.policy.arc:ARC",
    "belady": "locum.policy.belady:Belady",
}
"""Eviction policies by name, as `module:Class`."""


@dataclass(frozen=True, slots=True)
class Factory:
    """Makes one policy per group: a `PolicyFactory` with a name."""

    name: str
    method: type[EvictionPolicy]
    params: Mapping[str, Any]

    @property
    def needs(self) -> frozenset[str]:
        """What the policy asks of the engine or the trace."""
        return self.method.needs

    def __call__(self, scope: Scope, /) -> EvictionPolicy:
        """A fresh policy for `scope`."""
        return self.method(scope, **self.params)


def create(name: str, **params: Any) -> Factory:
    """The eviction policy `name`, which may hold parameters too (`name:param=value`).

    Raises `UsageError` for an unknown name or parameter.
    """
    name, own = parse(name)
    params = own | params
    method = find("eviction", EVICTION, name)
    check_parameters("eviction", name, method, params)
    return Factory(name, method, params)

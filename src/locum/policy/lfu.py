"""Least frequently used, with and without ageing.

Counts are kept for every expert ever asked for, resident or not: there are few of them, and an expert that
comes back finds its history. `lfu-aging` halves all counts every so many requests, the "reset" of TinyLFU
(Einziger, Friedman and Manes, ACM Transactions on Storage 13(4), 2017), so that what was popular long ago
fades.
"""

from collections.abc import Collection, Sequence
from typing import Any

from locum.errors import UsageError
from locum.policy.base import EvictionPolicy, Info, Scope
from locum.policy.order import LowestFirst


class LFU(EvictionPolicy):
    """Fewest requests first; among equals the one used longest ago."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._count: dict[int, int] = {}
        self._order = LowestFirst()
        self._stamp = 0

    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        """See `EvictionPolicy.use`. O(log n) per id."""
        order, count, entering = self._order, self._count, frozenset(new)
        for key in ids:
            self._stamp += 1
            times = count[key] = count.get(key, 0) + 1
            if key in order or key in entering:
                order.set(key, times, self._stamp)

    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        """See `EvictionPolicy.victims`."""
        return self._order.take(need, self.scope.sizes, protected)

    def drop(self, key: int) -> None:
        """See `EvictionPolicy.drop`."""
        self._order.discard(key)

    def state(self) -> Any:
        """See `EvictionPolicy.state`."""
        return {"count": list(self._count.items()), "order": self._order.state(), "stamp": self._stamp}

    def restore(self, state: Any) -> None:
        """See `EvictionPolicy.restore`."""
        self._count = dict(state["count"])
        self._order.restore(state["order"])
        self._stamp = state["stamp"]


class AgingLFU(LFU):
    """`LFU` whose counts are halved (rounding down) every `period` requests, before the acquire that
    reaches it.

    `period` defaults to ten requests per expert that fits. Raises `UsageError` when it is not positive.
    """

    def __init__(self, scope: Scope, period: int | None = None) -> None:
        super().__init__(scope)
        if period is None:
            largest = max(scope.sizes)
            period = 10 * max(1, scope.capacity // largest)
        if period <= 0:
            raise UsageError("the ageing period must be positive", where="policy lfu-aging", got=period)
        self._period = self._next = period

    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        """See `EvictionPolicy.use`. O(log n) per id, and O(n) once per period."""
        if self._stamp >= self._next:
            self._next = self._stamp + self._period
            self._count = {key: times >> 1 for key, times in self._count.items()}
            self._order.rescore(self._count)
        super().use(tick, layer, ids, new, info)

    def state(self) -> Any:
        """See `EvictionPolicy.state`."""
        return super().state() | {"next": self._next}

    def restore(self, state: Any) -> None:
        """See `EvictionPolicy.restore`."""
        super().restore(state)
        self._next = state["next"]

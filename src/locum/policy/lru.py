"""Least recently used: evict what was asked for longest ago."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

from locum.policy.base import EvictionPolicy, Info, Scope, take_until


class LRU(EvictionPolicy):
    """Recency within one acquire is in id order, so larger caches keep what smaller ones keep."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._order: OrderedDict[int, None] = OrderedDict()

    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        """See `EvictionPolicy.use`. O(1) per id."""
        order = self._order
        if new:
            for key in new:
                order[key] = None
        touch = order.move_to_end
        for key in ids:
            if key in order:
                touch(key)

    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        """See `EvictionPolicy.victims`. O(victims + protected)."""
        chosen = take_until(need, self._order, self.scope.sizes, protected)
        for key in chosen:
            del self._order[key]
        return chosen

    def drop(self, key: int) -> None:
        """See `EvictionPolicy.drop`."""
        self._order.pop(key, None)

    def state(self) -> Any:
        """See `EvictionPolicy.state`: keys, the next to go first."""
        return list(self._order)

    def restore(self, state: Any) -> None:
        """See `EvictionPolicy.restore`."""
        self._order = OrderedDict.fromkeys(state)

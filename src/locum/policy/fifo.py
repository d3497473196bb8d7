"""First in, first out: evict what has been here longest, however often it was asked for."""

from collections.abc import Collection, Sequence
from typing import Any

from locum.policy.base import EvictionPolicy, Info, Scope, take_until


class FIFO(EvictionPolicy):
    """What enters together leaves in id order."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._order: dict[int, None] = {}

    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        """See `EvictionPolicy.use`. O(1) per new id."""
        self._order.update(dict.fromkeys(new))

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
        self._order = dict.fromkeys(state)

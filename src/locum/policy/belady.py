"""Belady's rule: evict what is needed again furthest in the future. The bound no policy can beat.

L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2),
1966. Optimal in misses when all sizes are equal; with mixed sizes it is a good rule, not a bound.
"""

from collections.abc import Collection, Sequence
from typing import Any

from locum.policy.base import EvictionPolicy, Info, Scope
from locum.policy.order import LowestFirst


class Belady(EvictionPolicy):
    """Furthest next use first. Needs `next`, so it runs on a trace, never live."""

    needs = frozenset({"next"})

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._order = LowestFirst()
        self._stamp = 0

    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        """See `EvictionPolicy.use`. O(log n) per id."""
        assert info is not None, "checked by `require` when the policy was made"
        order, entering = self._order, frozenset(new)
        for key, when in zip(ids, info["next"], strict=True):
            self._stamp += 1
            if key in order or key in entering:
                order.set(key, -when, self._stamp)

    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        """See `EvictionPolicy.victims`."""
        return self._order.take(need, self.scope.sizes, protected)

    def drop(self, key: int) -> None:
        """See `EvictionPolicy.drop`."""
        self._order.discard(key)

    def state(self) -> Any:
        """See `EvictionPolicy.state`."""
        return {"order": self._order.state(), "stamp": self._stamp}

    def restore(self, state: Any) -> None:
        """See `EvictionPolicy.restore`."""
        self._order.restore(state["order"])
        self._stamp = state["stamp"]

"""ARC: a share for what was asked for once and a share for what came again, adapted all the time.

Source: Megiddo and Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003, figure 4; here in
bytes, and for several requests at once. `t1` holds residents asked for once, `t2` those asked for again, each
the longest unused first; `b1` and `b2` remember who left them. A request for somebody in `b1` says that `t1`
is too small, one in `b2` that it is too large; `target` is the share of `t1` that follows.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

from locum.errors import PolicyError
from locum.policy.base import EvictionPolicy, Info, Scope


class _List:
    """Keys in the order of their last use, with their bytes."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self.keys: OrderedDict[int, None] = OrderedDict()
        self.bytes = 0

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def add(self, key: int) -> None:
        self.keys[key] = None
        self.bytes += self._sizes[key]

    def remove(self, key: int) -> None:
        del self.keys[key]
        self.bytes -= self._sizes[key]

    def oldest(self, protected: Collection[int] = ()) -> int | None:
        return next((key for key in self.keys if key not in protected), None)


class ARC(EvictionPolicy):
    """See the module's docstring. Keys of one `use` count as asked for one after the other, in id order."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._capacity = scope.capacity
        self._target = 0.0
        self._t1, self._t2, self._b1, self._b2 = (_List(scope.sizes) for _ in range(4))
        self._arrived = 0
        """Bytes that this use has put into `t1`: the paper makes room before it lets anybody in."""
        self._again = False
        """Whether somebody of this use was in `b2`."""

    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        """See `EvictionPolicy.use`. O(1) per id, and as much as what the ghosts forget."""
        self._arrived, self._again = 0, False
        entering = frozenset(new)
        for key in ids:
            if key in self._t1:
                self._t1.remove(key)
                self._t2.add(key)
            elif key in self._t2:
                self._t2.keys.move_to_end(key)
            elif key in entering:
                self._enter(key)
        self._forget()

    def _enter(self, key: int) -> None:
        size = self.scope.sizes[key]
        if key in self._b1:
            self._target = min(
                self._capacity, self._target + size * max(1.0, self._b2.bytes / self._b1.bytes)
            )
            self._b1.remove(key)
            self._t2.add(key)
        elif key in self._b2:
            self._target = max(0.0, self._target - size * max(1.0, self._b1.bytes / self._b2.bytes))
            self._b2.remove(key)
            self._t2.add(key)
            self._again = True
        else:
            self._t1.add(key)
            self._arrived += size

    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        """See `EvictionPolicy.victims`. O(victims + protected)."""
        chosen: list[int] = []
        freed = 0
        while freed < need:
            before = self._t1.bytes - self._arrived
            first = before > 0 and (before > self._target or (self._again and before == self._target))
            key = self._take(first, protected)
            chosen.append(key)
            freed += self.scope.sizes[key]
        self._forget()
        return chosen

    def _take(self, first: bool, protected: Collection[int]) -> int:
        """Take the oldest of `t1`, or of `t2` when not `first`; of the other where all are protected."""
        pairs = [(self._t1, self._b1), (self._t2, self._b2)]
        for present, ghosts in pairs if first else reversed(pairs):
            key = present.oldest(protected)
            if key is not None:
                present.remove(key)
                ghosts.add(key)
                return key
        raise PolicyError("not enough left to evict", where="policy arc")

    def _forget(self) -> None:
        """Ghosts go: those of `t1` beyond the capacity that both share, all of them beyond twice that."""
        while self._b1.keys and self._t1.bytes + self._b1.bytes > self._capacity:
            self._b1.remove(next(iter(self._b1.keys)))
        lists = (self._t1, self._t2, self._b1, self._b2)
        while self._b2.keys and sum(part.bytes for part in lists) > 2 * self._capacity:
            self._b2.remove(next(iter(self._b2.keys)))

    def drop(self, key: int) -> None:
        """See `EvictionPolicy.drop`."""
        for present in (self._t1, self._t2):
            if key in present:
                present.remove(key)

    def resize(self, capacity: int) -> None:
        """See `EvictionPolicy.resize`."""
        self._capacity = capacity
        self._target = min(self._target, float(capacity))
        self._forget()

    def state(self) -> Any:
        """See `EvictionPolicy.state`."""
        lists = {name: list(part.keys) for name, part in self._lists().items()}
        return lists | {
            "target": self._target, "capacity": self._capacity, "arrived": self._arrived, "again": self._again
        }  # fmt: skip

    def restore(self, state: Any) -> None:
        """See `EvictionPolicy.restore`."""
        for name, part in self._lists().items():
            for key in state[name]:
                part.add(key)
        self._target, self._capacity = state["target"], state["capacity"]
        self._arrived, self._again = state["arrived"], state["again"]

    def _lists(self) -> dict[str, _List]:
        return {"t1": self._t1, "t2": self._t2, "b1": self._b1, "b2": self._b2}

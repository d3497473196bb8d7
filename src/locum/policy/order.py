"""Residents ordered by (score, stamp, key), lowest first: the shared half of score-based policies."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from locum.policy.base import take_until

_Item = tuple[float, int, int]


class LowestFirst:
    """A heap with lazy deletion: `set` and `discard` in O(log n), `take` in O(log n) per candidate looked at.

    A key's newest item is the valid one; older ones stay in the heap until they surface or outnumber the
    rest.
    """

    def __init__(self) -> None:
        self._item: dict[int, _Item] = {}
        self._heap: list[_Item] = []

    def __contains__(self, key: object) -> bool:
        return key in self._item

    def set(self, key: int, score: float, stamp: int) -> None:
        """Put `key` in, or give it a new place."""
        item = self._item[key] = (score, stamp, key)
        heappush(self._heap, item)
        if len(self._heap) > 4 * len(self._item) + 64:
            self._compact()

    def discard(self, key: int) -> None:
        """Take `key` out, if it is in."""
        self._item.pop(key, None)

    def rescore(self, scores: Mapping[int, float]) -> None:
        """Give every key in here the score `scores[key]`; stamps stay."""
        self._item = {key: (scores[key], stamp, key) for key, (_, stamp, _) in self._item.items()}
        self._compact()

    def state(self) -> list[list[float]]:
        """[score, stamp, key] of each key."""
        return [list(item) for item in self._item.values()]

    def restore(self, state: Iterable[Sequence[Any]]) -> None:
        """Hold what `state` of another one gave, and nothing else."""
        self._item = {key: (score, stamp, key) for score, stamp, key in state}
        self._compact()

    def take(self, need: int, sizes: Sequence[int], protected: Collection[int]) -> list[int]:
        """Remove and return the lowest outside `protected`, `need` bytes or more. Raises `PolicyError`."""
        looked: list[_Item] = []
        try:
            chosen = take_until(need, self._ascending(looked), sizes, protected)
        finally:
            for item in looked:
                heappush(self._heap, item)
        for key in chosen:
            del self._item[key]
        return chosen

    def _ascending(self, looked: list[_Item]) -> Iterator[int]:
        """Valid keys, lowest first; what was popped is left in `looked` to be pushed back."""
        heap, valid = self._heap, self._item
        while heap:
            item = heappop(heap)
            if valid.get(item[2]) is item:
                looked.append(item)
                yield item[2]

    def _compact(self) -> None:
        self._heap = list(self._item.values())
        heapify(self._heap)

"""Prefetch: the contract of a policy that says what to fetch ahead.

A prefetcher declares `distance`: for how many layers beyond the present one it wants predictions (0: none,
and then `wants` is never called). The engine computes them with the layers' own routers, or the simulator
takes them from the trace; per layer, after its `acquire`, the prefetcher turns them into wants.

It is pure over integers: it sees no cache, no time, no queue. Whether a wanted expert is resident already,
and whether there is room, is the Ledger's business; whether a speculative read starts now is the Mover's.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

Want = tuple[int, int]
"""(key, due tick): this expert will be asked for at that tick."""


class Prediction(NamedTuple):
    """What one layer ahead is expected to choose."""

    due: int
    """The tick at which that layer will ask."""
    ids: Sequence[int]
    """Keys, in any order."""
    confidence: Sequence[float]
    """Aligned with `ids`; larger is surer. Already rounded to the trace's types."""


class Prefetcher(ABC):
    """See the module's docstring for the contract."""

    distance: int = 0

    @abstractmethod
    def wants(self, predictions: Sequence[Prediction]) -> list[Want]:
        """What to fetch ahead, best first, each key once. `predictions`: nearest first."""

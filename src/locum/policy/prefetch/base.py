"""Prefetch: the contract of a policy that says what to fetch ahead.

A prefetcher declares `distance`: for how many layers beyond the present one it wants predictions (0: none,
and then `wants` is never called). The engine computes them with the layers' own routers, or the simulator
takes them from the trace; per layer, after its `acquire`, the prefetcher turns them into wants.

It is pure over integers: it sees no cache, no time, no queue. Whether a wanted expert is resident already,
and whether there is room, is the Ledger's business; whether a speculative read starts now is the Mover's.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float16).max)
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


def confidence(ids_TP: NDArray[Any], scores_TP: NDArray[np.float16]) -> dict[int, float]:
    """Per expert that some token is foreseen to choose, ascending: the sum of its scores, as a float16.

    Ids below 0 are nobody. Float16 numbers added in float64 give the same sum in any order, so that a trace,
    which holds them, tells the simulator exactly what the engine knew.
    """
    if len(ids_TP) == 1:  # each expert once
        pairs = sorted(zip(ids_TP[0].tolist(), scores_TP[0].tolist(), strict=True))
        return {expert: score for expert, score in pairs if expert >= 0}
    there_TP = ids_TP >= 0
    ids = ids_TP[there_TP].astype(np.int64)
    if not ids.size:
        return {}
    sums_E = np.bincount(ids, scores_TP[there_TP].astype(np.float64))
    chosen = np.unique(ids)
    rounded = np.minimum(sums_E[chosen], _LARGEST).astype(np.float16)
    return dict(zip(chosen.tolist(), rounded.tolist(), strict=True))


class Prefetcher(ABC):
    """See the module's docstring for the contract."""

    distance: int = 0

    @abstractmethod
    def wants(self, predictions: Sequence[Prediction]) -> list[Want]:
        """What to fetch ahead, best first, each key once. `predictions`: nearest first."""

"""Believe the next layers' own gates.

Hidden states change little from one layer to the next, so a later layer's router applied to this layer's gate
input finds most of the experts that layer will choose. Used, in several forms, by Eliseev and Mazur, "Fast
inference of mixture-of-experts language models with offloading", 2023 (arXiv 2312.17238), AdapMoE and HOBBIT.
"""

from collections.abc import Sequence

from locum.errors import UsageError
from locum.policy.prefetch.base import Prediction, Prefetcher, Want


class NextGate(Prefetcher):
    """Nearest layer first, within a layer the surest first, then the smaller key.

    `distance`: layers looked ahead. `window`: most wants per call. `least`: the confidence below which a
    prediction is not worth a read. Raises `UsageError` for values that make no sense.
    """

    def __init__(self, distance: int = 1, window: int = 8, least: float = 0.0) -> None:
        for name, value in (("distance", distance), ("window", window)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1", where="prefetch policy next-gate", got=value)
        self.distance, self._window, self._least = distance, window, least

    def wants(self, predictions: Sequence[Prediction]) -> list[Want]:
        """See `Prefetcher.wants`."""
        chosen: dict[int, int] = {}
        for due, ids, confidence in sorted(predictions, key=lambda prediction: prediction.due):
            best = sorted(
                (-sure, key) for key, sure in zip(ids, confidence, strict=True) if sure >= self._least
            )
            for _, key in best:
                if len(chosen) == self._window:
                    return list(chosen.items())
                chosen.setdefault(key, due)
        return list(chosen.items())

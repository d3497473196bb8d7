"""Fetch nothing ahead."""

from collections.abc import Sequence

from locum.policy.prefetch.base import Prediction, Prefetcher, Want


class NoPrefetch(Prefetcher):
    """Asks for no predictions and wants nothing."""

    def wants(self, predictions: Sequence[Prediction]) -> list[Want]:
        """See `Prefetcher.wants`."""
        return []

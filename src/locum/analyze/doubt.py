"""How sure the router is: its entropy, and the margin between the last chosen and the first left out."""

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.analyze.base import Metric, plain
from locum.trace import Rows, TraceMeta

_BINS = 256
_QUANTILES = (0.1, 0.5, 0.9)


class _Spread(Metric):
    """Mean and quantiles of one number per token and layer; quantiles are exact to one bin in 256."""

    column = ""

    def __init__(self, meta: TraceMeta) -> None:
        super().__init__(meta)
        self.top = self.largest()
        self._bins_LB = np.zeros((self.layers, _BINS), np.int64)
        self._sum_L, self._count_L = np.zeros(self.layers), np.zeros(self.layers, np.int64)

    @abstractmethod
    def largest(self) -> float:
        """The upper end of the last bin."""

    def update(self, rows: Rows) -> None:
        """Count into bins; NaN is left out."""
        values_tL: NDArray[np.float64] = getattr(rows, self.column).astype(float)
        there = np.isfinite(values_tL)
        self._sum_L += np.where(there, values_tL, 0).sum(0)
        self._count_L += there.sum(0)
        bins = np.clip(np.where(there, values_tL, 0) / self.top * _BINS, 0, _BINS - 1).astype(np.int64)
        flat = (bins + np.arange(self.layers) * _BINS)[there]
        self._bins_LB += np.bincount(flat, minlength=self.layers * _BINS).reshape(self.layers, _BINS)

    def result(self) -> dict[str, Any]:
        """Per layer `mean` and the `quantiles` 0.1, 0.5, 0.9; `largest` is what it can be at most."""
        below_LB = np.cumsum(self._bins_LB, axis=1)
        quantiles = [
            [(np.searchsorted(below, q * below[-1]) + 0.5) / _BINS * self.top for below in below_LB]
            for q in _QUANTILES
        ]
        mean = np.divide(
            self._sum_L, self._count_L, out=np.full(self.layers, np.nan), where=self._count_L > 0
        )
        return plain(
            {"mean": mean, "quantiles": dict(zip(_QUANTILES, quantiles, strict=True)), "largest": self.top}
        )


class Entropy(_Spread):
    """The router's entropy in nats; ln E when it does not care."""

    needs = ("experts", "entropy")
    column = "entropy"

    def largest(self) -> float:
        """ln E."""
        return float(np.log(self.experts))


class Margin(_Spread):
    """Selection score of the last chosen less that of the first left out."""

    needs = ("experts", "margin")
    column = "margin"

    def largest(self) -> float:
        """Scores of most routers are probabilities; larger margins fall into the last bin."""
        return 1.0

"""How evenly the experts of each layer are used."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.analyze.base import Metric, count_choices, divide, plain
from locum.trace import Rows, TraceMeta


class Load(Metric):
    """Choices per expert and layer, counted exactly; Gini coefficient and largest over mean per layer."""

    needs = ()
    takes = ("counts",)

    def __init__(self, meta: TraceMeta) -> None:
        super().__init__(meta)
        self.counts_LE = np.zeros((self.layers, self.experts), np.int64)
        self.rows = 0

    def update(self, rows: Rows) -> None:
        """Count."""
        if rows.counts is None:
            self.counts_LE += count_choices(rows.experts, self.experts)
        else:
            self.counts_LE += rows.counts.sum(0, dtype=np.int64)
        self.rows += len(rows)

    def result(self) -> dict[str, Any]:
        """`counts` [L][E], and per layer `gini`, `max_over_mean`, `unused` and `effective` experts."""
        layers = [counts[:e] for counts, e in zip(self.counts_LE, self.experts_L, strict=True)]
        return plain({
            "rows": self.rows,
            "counts": [counts.tolist() for counts in layers],
            "gini": [gini(counts) for counts in layers],
            "max_over_mean": [divide(counts.max(), counts.mean())[()] for counts in layers],
            "unused": [int((counts == 0).sum()) for counts in layers],
            "effective": [effective(counts) for counts in layers],
        })  # fmt: skip


def gini(loads_E: NDArray[Any]) -> float:
    """Gini coefficient: 0 when even, 1 - 1/E when one has all. NaN without any load."""
    ordered = np.sort(loads_E.astype(float))
    total, count = ordered.sum(), len(ordered)
    if not total:
        return float("nan")
    return float(2 * (np.arange(1, count + 1) * ordered).sum() / (count * total) - (count + 1) / count)


def effective(loads_E: NDArray[Any]) -> float:
    """exp of the shares' entropy: so many experts, used evenly, would be as uneven. NaN without load."""
    shares = divide(loads_E, loads_E.sum())
    kept = shares[shares > 0]
    return float(np.exp(-(kept * np.log(kept)).sum())) if kept.size else float("nan")

"""Who works together: within a layer, and from one layer to the next.

Source of the definitions: Muennighoff et al., "OLMoE", 2024 (arXiv 2409.02060), co-activation, here over all
pairs of a choice; Yao et al., "ExFlow", 2024 (arXiv 2401.08383), affinity between layers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.analyze.base import Metric, count_choices, count_pairs, divide, plain
from locum.trace import Rows, TraceMeta

_STRONGEST = 20
_TOP_SHARE = 0.2


class Coactivation(Metric):
    """P(j | i): of the tokens that chose expert i, the share that chose j beside it. Exact, all pairs."""

    def __init__(self, meta: TraceMeta) -> None:
        super().__init__(meta)
        self.counts_LEE = np.zeros((self.layers, self.experts, self.experts), np.int64)
        self.rows = 0

    def update(self, rows: Rows) -> None:
        """Count the pairs."""
        self.counts_LEE += count_pairs(rows.experts, rows.experts, self.experts)
        self.rows += len(rows)

    def given(self) -> NDArray[np.float64]:
        """[L, i, j]: P(j | i); 1 on the diagonal, NaN for an expert that nobody chose."""
        alone_LE = np.einsum("lee->le", self.counts_LEE)
        return divide(self.counts_LEE, alone_LE[:, :, None])

    def result(self) -> dict[str, Any]:
        """Per layer the strongest pairs (i, j, P(j|i), times what chance gives), and the largest lift."""
        alone_LE = np.einsum("lee->le", self.counts_LEE)
        lift_LEE = divide(self.counts_LEE * max(1, self.rows), alone_LE[:, :, None] * alone_LE[:, None, :])
        given_LEE = self.given()
        return plain({
            "strongest": [
                [(i, j, given_LEE[layer, i, j], lift_LEE[layer, i, j]) for i, j in _strongest(counts)]
                for layer, counts in enumerate(self.counts_LEE)
            ],
            "largest_lift": list(map(_largest, lift_LEE, self.counts_LEE)),
        })  # fmt: skip


def _strongest(counts_EE: NDArray[np.int64]) -> list[tuple[int, int]]:
    upper = np.triu(counts_EE, 1)
    order = np.argsort(-upper, axis=None, kind="stable")[:_STRONGEST]
    pairs = [divmod(int(place), len(upper)) for place in order]
    return [(i, j) for i, j in pairs if upper[i, j]]


def _largest(lift_EE: NDArray[np.float64], counts_EE: NDArray[np.int64]) -> float:
    """The largest lift among pairs seen at least 20 times: a pair seen once proves nothing."""
    often = np.triu(counts_EE, 1) >= 20
    return float(lift_EE[often].max()) if often.any() else float("nan")


class Transitions(Metric):
    """From the experts of a layer to those the same token chose in the next: T[i, j], all pairs, exact."""

    def __init__(self, meta: TraceMeta) -> None:
        super().__init__(meta)
        self.counts_LEE = np.zeros((max(0, self.layers - 1), self.experts, self.experts), np.int64)
        self.loads_LE = np.zeros((self.layers, self.experts), np.int64)

    def update(self, rows: Rows) -> None:
        """Count the pairs."""
        if self.layers > 1:
            self.counts_LEE += count_pairs(rows.experts[:, :-1], rows.experts[:, 1:], self.experts)
        self.loads_LE += count_choices(rows.experts, self.experts)

    def result(self) -> dict[str, Any]:
        """Per step from layer to layer: `top_mass`, the mean share of a row's mass on its best fifth of the
        next layer's experts, and `top_mass_of_load`, the same without looking at the expert before.
        """
        return plain({
            "top_mass": list(map(top_mass, self.counts_LEE, self.experts_L[1:])),
            "top_mass_of_load": [
                top_mass(load[None], e) for load, e in zip(self.loads_LE[1:], self.experts_L[1:], strict=True)
            ],
        })  # fmt: skip


def top_mass(counts_EE: NDArray[np.int64], experts: int) -> float:
    """The share of each row's mass on its best fifth of `experts`, weighed by the rows. NaN without any."""
    best = max(1, round(_TOP_SHARE * experts))
    total = counts_EE.sum()
    return float(np.sort(counts_EE, axis=1)[:, -best:].sum() / total) if total else float("nan")

"""How many experts have been needed at all after so many tokens.

Whether a share of the experts is never used is a question of how many tokens were looked at; the curve says
so where a single figure would not.
"""

from typing import Any

import numpy as np

from locum.analyze.base import Metric, plain
from locum.trace import Rows, TraceMeta

_POINTS = 8  # per factor of ten


class Coverage(Metric):
    """Distinct experts against tokens, exact: each expert's first row is remembered."""

    def __init__(self, meta: TraceMeta) -> None:
        super().__init__(meta)
        self.first_LE = np.full((self.layers, self.experts), np.iinfo(np.int64).max)
        self.rows = 0

    def update(self, rows: Rows) -> None:
        """Note who is new."""
        layers = np.broadcast_to(np.arange(self.layers)[:, None], rows.experts.shape[1:])
        for start in range(0, len(rows), 4096):
            ids_tLK = rows.experts[start : start + 4096]
            if not (self.first_LE[layers, ids_tLK] == np.iinfo(np.int64).max).any():
                continue
            number_tLK = np.broadcast_to(
                np.arange(self.rows + start, self.rows + start + len(ids_tLK))[:, None, None], ids_tLK.shape
            )
            there = ids_tLK >= 0
            where = (np.broadcast_to(layers, ids_tLK.shape)[there], ids_tLK[there])
            np.minimum.at(self.first_LE, where, number_tLK[there])
        self.rows += len(rows)

    def result(self) -> dict[str, Any]:
        """`tokens` [n] and `share` [L][n] of the layer's experts needed by then, `all` [n] over layers."""
        tokens = points(self.rows)
        seen_nLE = self.first_LE < tokens[:, None, None]
        counts_nL = seen_nLE.sum(2)
        return plain({
            "tokens": tokens,
            "share": (counts_nL / self.experts_L).T,
            "all": counts_nL.sum(1) / self.experts_L.sum(),
        })  # fmt: skip


def points(rows: int) -> Any:
    """Numbers of tokens, evenly spaced on a logarithmic scale, the last one `rows`."""
    steps = np.arange(0, int(np.ceil(np.log10(max(rows, 1)) * _POINTS)) + 1) / _POINTS
    return np.unique(np.minimum(np.round(10**steps), rows).astype(np.int64))

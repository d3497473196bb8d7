"""How much of a token's choice the token before it chose already, layer by layer.

Source: Jiang et al., "Mixtral of Experts", 2024 (arXiv 2401.04088), table 5, which counts first choices; here
all of them count.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.analyze.base import Metric, divide, plain
from locum.trace import Rows, TraceMeta

_OPEN = 65_536
"""Requests whose last token is remembered."""


class Reuse(Metric):
    """Shares over consecutive tokens of a request, exact. `random` is what independent choices would give."""

    def __init__(self, meta: TraceMeta) -> None:
        super().__init__(meta)
        self.kept_L = np.zeros(self.layers, np.int64)
        self.chosen_L = np.zeros(self.layers, np.int64)
        self._last: dict[int, tuple[int, NDArray[np.int16]]] = {}

    def update(self, rows: Rows) -> None:
        """Compare each row with the one before it in its request."""
        order = np.lexsort((rows.position, rows.request))
        request, position, ids_tLK = rows.request[order], rows.position[order], rows.experts[order]
        follows = np.flatnonzero((request[1:] == request[:-1]) & (position[1:] == position[:-1] + 1)) + 1
        self._compare(ids_tLK[follows - 1], ids_tLK[follows])
        starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
        for start, stop in zip(starts, [*starts[1:], len(request)], strict=True):
            number = int(request[start])
            before = self._last.get(number)
            if before is not None and before[0] + 1 == position[start]:
                self._compare(before[1][None], ids_tLK[start : start + 1])
            self._last.pop(number, None)  # so that it stands last
            self._last[number] = int(position[stop - 1]), ids_tLK[stop - 1].copy()
        while len(self._last) > _OPEN:
            del self._last[next(iter(self._last))]

    def _compare(self, before_tLK: NDArray[np.int16], ids_tLK: NDArray[np.int16]) -> None:
        for start in range(0, len(ids_tLK), 4096):
            old, new = before_tLK[start : start + 4096], ids_tLK[start : start + 4096]
            there = new >= 0
            kept = (new[:, :, :, None] == old[:, :, None, :]).any(3) & there
            self.kept_L += kept.sum((0, 2))
            self.chosen_L += there.sum((0, 2))

    def result(self) -> dict[str, Any]:
        """`share` [L] of a token's experts that the token before had too, and `random` [L]."""
        return plain({"share": divide(self.kept_L, self.chosen_L), "random": self.top_k_L / self.experts_L})

"""Runs of consecutive tokens of one request: what curves and consistency are measured on.

A trace may be long; a stated number of segments is drawn from it at random, each as likely as any other
(reservoir sampling, Vitter 1985), so that memory stays bounded and intervals can be given.

Axes: n segments, T tokens of a segment, L MoE layers, K chosen.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.trace import Rows

LENGTH = 512
"""Tokens of a segment, as in arXiv 2505.16056."""
LEAST = 64
"""Shorter rests are left out."""
_OPEN = 4096
"""Requests under way at once; when there are more, the oldest one's rest is closed."""


@dataclass
class Segments:
    """A sample of at most `limit` segments. Fill with `add`, then `finish`."""

    limit: int = 256
    length: int = LENGTH
    seed: int = 0
    found: list[NDArray[np.int16]] = field(default_factory=list)
    """[T, L, K] each."""
    total: int = 0
    """Segments there were."""
    tokens: int = 0
    """Tokens of the trace that were in one of them."""

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._open: dict[int, tuple[int, list[NDArray[np.int16]]]] = {}

    def add(self, rows: Rows) -> None:
        """Hear the next rows of the trace."""
        order = np.lexsort((rows.position, rows.request))
        request, position = rows.request[order], rows.position[order]
        breaks = (request[1:] != request[:-1]) | (position[1:] != position[:-1] + 1)
        starts = np.flatnonzero(np.r_[True, breaks])
        for start, stop in zip(starts, [*starts[1:], len(request)], strict=True):
            self._run(int(request[start]), int(position[start]), rows.experts[order[start:stop]])
        while len(self._open) > _OPEN:
            self._close(next(iter(self._open)))

    def _run(self, request: int, position: int, ids_TLK: NDArray[np.int16]) -> None:
        after, parts = self._open.pop(request, (position, []))
        if after != position:
            self._offer(parts)
            parts = []
        parts.append(ids_TLK)
        held = sum(map(len, parts))
        while held >= self.length:
            whole = np.concatenate(parts)
            self._offer([whole[: self.length]])
            parts, held = [whole[self.length :]], held - self.length
        self._open[request] = position + len(ids_TLK), parts

    def _close(self, request: int) -> None:
        self._offer(self._open.pop(request)[1])

    def finish(self) -> "Segments":
        """Close what is open; the sample is complete."""
        for request in list(self._open):
            self._close(request)
        return self

    def _offer(self, parts: list[NDArray[np.int16]]) -> None:
        size = sum(map(len, parts))
        if size < min(LEAST, self.length):
            return
        self.total += 1
        self.tokens += size
        place = len(self.found) if len(self.found) < self.limit else int(self._random.integers(self.total))
        if place < self.limit:
            segment = np.concatenate(parts).copy()
            self.found[place : place + 1] = [segment]


def bootstrap(
    values_nX: NDArray[Any], weights_n: NDArray[Any], seed: int = 0, draws: int = 1000
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95% intervals ([X], [X]) of sum(values) / sum(weights) over segments drawn with replacement."""
    count = len(values_nX)
    if count < 2:
        nothing = np.full(values_nX.shape[1:], np.nan)
        return nothing, nothing
    # floats, because only their products are fast
    picked = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws).astype(float)
    ratios = (picked @ values_nX) / np.maximum(picked @ weights_n, 1e-300)[:, None]
    low, high = np.quantile(ratios, [0.025, 0.975], axis=0)
    return low, high


def layer_acquires(ids_TK: NDArray[np.int16]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(keys, starts) of one layer for `native.replay`: each token is one acquire, -1 left out."""
    ordered_TK = np.sort(ids_TK, axis=1)
    there_TK = ordered_TK >= 0
    starts = np.concatenate([[0], np.cumsum(there_TK.sum(1))])
    return ordered_TK[there_TK].astype(np.int32), starts

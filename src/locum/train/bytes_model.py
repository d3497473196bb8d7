"""A baseline without any network: an order-5 model of bytes, smoothed after Witten and Bell.

p(c | context) = (n(context c) + u(context) * p(c | shorter context)) / (n(context) + u(context)), where u
counts the different bytes seen after the context; below the empty context every byte is equally likely.
Source: Witten and Bell, "The zero-frequency problem", 1991.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
ORDER = 5


class ByteModel:
    """Counts of byte strings of length 1 to `order` + 1, as sorted arrays."""

    def __init__(self, texts: Iterable[bytes], order: int = ORDER) -> None:
        self.order = order
        stream = np.frombuffer(b"\0".join(texts), np.uint8)
        self._grams: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._contexts: list[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]] = []
        for length in range(1, order + 2):
            grams, counts = np.unique(_windows(stream, length), return_counts=True)
            self._grams.append((grams, counts))
            heads, first, kinds = np.unique(grams >> np.uint64(8), return_index=True, return_counts=True)
            totals = np.add.reduceat(counts, first) if len(counts) else counts
            self._contexts.append((heads, totals, kinds))

    def nats(self, text: bytes) -> float:
        """-log of the probability of `text`, the first `order` bytes with shorter contexts."""
        stream = np.frombuffer(text, np.uint8)
        p = np.full(len(stream), 1 / 256)
        for length in range(1, self.order + 2):
            if len(stream) < length:
                break
            windows = _windows(stream, length)
            seen = _look_up(*self._grams[length - 1], windows)
            heads, totals, kinds = self._contexts[length - 1]
            context = windows >> np.uint64(8)
            total, kind = _look_up(heads, totals, context), _look_up(heads, kinds, context)
            shorter = p[length - 1 :]
            with np.errstate(invalid="ignore", divide="ignore"):
                p[length - 1 :] = np.where(total > 0, (seen + kind * shorter) / (total + kind), shorter)
        return -float(np.log(p).sum())

    def bits_per_byte(self, texts: Iterable[bytes]) -> float:
        """Over all texts together."""
        nats = size = 0.0
        for text in texts:
            nats, size = nats + self.nats(text), size + len(text)
        return nats / size / math.log(2)


def _windows(stream: Bytes, length: int) -> NDArray[np.uint64]:
    """Every string of `length` bytes as one number, the last byte lowest."""
    found = np.zeros(max(0, len(stream) - length + 1), np.uint64)
    for offset in range(length):
        found = found << np.uint64(8) | stream[offset : len(stream) - length + 1 + offset].astype(np.uint64)
    return found


def _look_up(
    keys: NDArray[np.uint64], values: NDArray[np.int64], wanted: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """The value of each wanted key, 0 where it is missing."""
    if not len(keys):
        return np.zeros(len(wanted))
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)

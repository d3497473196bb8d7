"""The contract of a metric: it hears the rows of a trace once, in order, and says what it found.

A metric is given batches of `Rows` that hold at least the columns it `needs`. It may keep state, bounded by
the shape of the model and never by the length of the trace; it must not keep or change the batches. `result`
gives JSON: numbers, strings, lists and dicts, NaN as None. What is an estimate carries an interval; what is
counted exactly does not.

Axes: t rows, L MoE layers, K chosen, E experts (the largest layer's; padded with nothing).
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from locum.trace import Rows, TraceMeta


class Metric(ABC):
    """See the module's docstring."""

    needs: ClassVar[tuple[str, ...]] = ("experts",)
    """Columns of the trace without which the metric means nothing."""
    takes: ClassVar[tuple[str, ...]] = ()
    """Columns it looks at where they are there."""

    def __init__(self, meta: TraceMeta) -> None:
        self.meta = meta
        sizes = meta.sizes
        self.layers, self.experts = sizes["L"], sizes["E"]
        self.experts_L = np.array(meta.experts)
        self.top_k_L = np.array(meta.top_k)

    @abstractmethod
    def update(self, rows: Rows) -> None:
        """The next rows."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """What was found; may be called once all rows were heard."""


def count_choices(ids_tLK: NDArray[np.int16], experts: int) -> NDArray[np.int64]:
    """[L, E]: how often each expert was chosen; -1 is nobody."""
    layers = ids_tLK.shape[1]
    flat = ids_tLK.astype(np.int64) + 1 + (np.arange(layers) * (experts + 1))[:, None]
    counts = np.bincount(flat.reshape(-1), minlength=layers * (experts + 1))
    return counts.reshape(layers, experts + 1)[:, 1:]


def count_pairs(left_tLK: NDArray[np.int16], right_tLJ: NDArray[np.int16], experts: int) -> NDArray[np.int64]:
    """[L, E, E]: how often expert i stood left in a row while j stood right in it."""
    layers, wide = left_tLK.shape[1], experts + 1
    left = left_tLK.astype(np.int64)[:, :, :, None] + 1 + (np.arange(layers) * wide)[:, None, None]
    flat = left * wide + right_tLJ.astype(np.int64)[:, :, None, :] + 1
    counts = np.bincount(flat.reshape(-1), minlength=layers * wide * wide)
    return counts.reshape(layers, wide, wide)[:, 1:, 1:]


def divide(top: Any, bottom: Any) -> NDArray[np.float64]:
    """top / bottom, NaN where there is nothing to divide by."""
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    found = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=found, where=bottom != 0)
    return found


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """Arrays as lists for JSON, NaN as None."""
    return {str(key): _plain(value) for key, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return plain(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value

"""What must hold for the rows of a trace, checked when they are read and when they are imported.

Axes: t rows, L MoE layers, K chosen.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.errors import TraceError
from locum.trace.columns import Rows
from locum.trace.meta import TraceMeta

_AGAIN = "What made this wrote another shape than it says, or what no router chooses: make it again"
_MOST_NUMBERS = 1 << 22  # compared at a time: memory stays flat


def check_rows(rows: Rows, meta: TraceMeta, where: object, first: int = 0) -> None:
    """Raises `TraceError` naming row, layer and id. `first` is the number of the first row."""
    if (backwards := np.flatnonzero(np.diff(rows.step) < 0)).size:
        row = first + int(backwards[0]) + 1
        raise TraceError(
            "steps go backwards",
            where=f"{where}, row {row}",
            got=int(rows.step[backwards[0] + 1]),
            todo=_AGAIN,
        )
    for column, array in rows.columns():
        if column.axes == "LK" and column.dtype == "int16":
            _check_ids(array, meta, f"{where}, {column.name}", first)
        elif column.dtype == "int16":
            _check_range(array, meta, column.name, f"{where}, {column.name}", first)


def _check_ids(ids_tLK: NDArray[Any], meta: TraceMeta, where: str, first: int) -> None:
    experts_L = np.array(meta.experts, np.int16)[:, None]
    width = ids_tLK.shape[2]
    allowed_LK = np.arange(width) < np.array(meta.top_k)[:, None]
    chunk = max(1, _MOST_NUMBERS // max(1, ids_tLK[0].size if len(ids_tLK) else 1))
    for start in range(0, len(ids_tLK), chunk):
        part_tLK = ids_tLK[start : start + chunk]
        there_tLK = part_tLK >= 0
        faults = {
            "an expert's number is out of range": (part_tLK < -1) | (part_tLK >= experts_L),
            "more experts than the layer chooses": there_tLK & ~allowed_LK,
            "-1 stands before an expert": there_tLK & ~_shifted(there_tLK),
            "an expert stands twice in one choice": _twice(part_tLK, there_tLK),
        }
        for what, wrong_tLK in faults.items():
            if wrong_tLK.any():
                row, layer, place = (int(axis[0]) for axis in np.nonzero(wrong_tLK))
                raise TraceError(
                    what, where=f"{where}, row {first + start + row}, MoE layer {layer}, place {place}",
                    allowed=f"{meta.top_k[layer]} different ids below {meta.experts[layer]}, then -1",
                    got=part_tLK[row, layer].tolist(), todo=_AGAIN,
                )  # fmt: skip


def _check_range(ids_tLX: NDArray[Any], meta: TraceMeta, name: str, where: str, first: int) -> None:
    """Ids that are no choice, as what was foreseen: of the layer, or of the one that a distance leads to."""
    experts_L = np.array(meta.experts, np.int16)
    last = len(experts_L) - 1
    axes = ids_tLX.ndim - 2  # [D, P] or [S]
    limit = experts_L.reshape(-1, *[1] * axes)
    if name == "next_ids":
        target_LD = np.arange(last + 1)[:, None] + 1 + np.arange(ids_tLX.shape[2])
        limit = experts_L[np.minimum(target_LD, last)][..., None]  # nothing is behind the last layer
    wrong = (ids_tLX < -1) | (ids_tLX >= limit)
    if wrong.any():
        row, layer, *place = (int(axis[0]) for axis in np.nonzero(wrong))
        most = int(np.broadcast_to(limit, ids_tLX.shape[1:])[(layer, *place)])
        raise TraceError(
            "an expert's number is out of range", where=f"{where}, row {first + row}, MoE layer {layer}",
            allowed=f"ids below {most}, or -1", got=int(ids_tLX[(row, layer, *place)]), todo=_AGAIN,
        )  # fmt: skip


def _shifted(there_tLK: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the place before holds an expert; true for the first place."""
    before_tLK = np.ones_like(there_tLK)
    before_tLK[..., 1:] = there_tLK[..., :-1]
    return before_tLK


def _twice(ids_tLK: NDArray[Any], there_tLK: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the same id stands at an earlier place."""
    twice_tLK = np.zeros_like(there_tLK)
    for gap in range(1, ids_tLK.shape[2]):
        twice_tLK[..., gap:] |= ids_tLK[..., gap:] == ids_tLK[..., :-gap]
    twice_tLK &= there_tLK
    return twice_tLK

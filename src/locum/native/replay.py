"""Replay requests through caches: natively, or by the twin where the library is not there.

`keys` are small integers; acquire a asks for `keys[starts[a] : starts[a + 1]]`, distinct and ascending.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.native import library, twin_replay
from locum.native.twin_replay import NEXT, RECENCY, USES, WINDOW

__all__ = ["NEXT", "RECENCY", "USES", "WINDOW", "lru_depths", "replay", "score_depths"]


def lru_depths(keys: NDArray[np.int32], starts: NDArray[np.int64], key_count: int) -> NDArray[np.int64]:
    """[key_count + 1]: how many requests found their key n-th in the order of last use; 0: were its first.

    A cache of n experts that forgets the least recently used hits `depths[1 : n + 1].sum()` times.
    """
    run = library.function("locum_lru_depths")
    if run is None:
        return twin_replay.lru_depths(keys, starts, key_count)
    depths = np.zeros(key_count + 1, np.int64)
    _call(run, keys, starts, ctypes.c_int64(key_count), depths)
    return depths


def score_depths(
    keys: NDArray[np.int32], starts: NDArray[np.int64], key_count: int, kind: int, window: int = 0
) -> NDArray[np.int64]:
    """The same for caches that forget the lowest score first, the longest unused among equals.

    `kind`: `USES` so far, `NEXT` use (Belady's rule), or uses in the next acquires, `WINDOW` of them. True
    for caches that hold all keys of any acquire. R. L. Mattson et al., IBM Systems Journal 9(2), 1970.
    """
    run = library.function("locum_score_depths")
    if run is None:
        return twin_replay.score_depths(keys, starts, key_count, kind, window)
    depths = np.zeros(key_count + 1, np.int64)
    _call(run, keys, starts, ctypes.c_int64(key_count), kind, ctypes.c_int64(window), depths)
    return depths


def replay(
    keys: NDArray[np.int32],
    starts: NDArray[np.int64],
    key_count: int,
    kind: int,
    capacity: int,
    *,
    period: int = 0,
) -> tuple[int, int, int]:
    """(hits, evicted, streamed) of one cache of `capacity` experts, as the Ledger counts in "rank" waves.

    `kind`: `RECENCY`, `USES` or `NEXT`; uses are halved every `period` requests, never for 0.
    """
    run = library.function("locum_replay")
    if run is None:
        return twin_replay.replay(keys, starts, key_count, kind, capacity, period=period)
    found = np.zeros(3, np.int64)
    sizes = ctypes.c_int64(capacity), ctypes.c_int64(period)
    _call(run, keys, starts, ctypes.c_int64(key_count), kind, *sizes, found)
    return int(found[0]), int(found[1]), int(found[2])


def _call(run: Any, keys: NDArray[np.int32], starts: NDArray[np.int64], *rest: Any) -> None:
    """`run(keys, starts, acquires, *rest)`, arrays by their addresses."""
    keys, starts = np.ascontiguousarray(keys, np.int32), np.ascontiguousarray(starts, np.int64)
    assert starts[-1] == len(keys), "the last acquire ends with the keys"
    given = (keys, starts, ctypes.c_int64(len(starts) - 1), *rest)
    run(*[ctypes.c_void_p(x.ctypes.data) if isinstance(x, np.ndarray) else x for x in given])

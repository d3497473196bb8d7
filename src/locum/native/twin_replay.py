"""What the replay functions compute, in plain Python: slow, and equal to the last hit.

Requests come as acquires: `keys[starts[a] : starts[a + 1]]`, distinct and ascending. See `replay.cpp`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

RECENCY, USES, NEXT, WINDOW = range(4)
NEVER = 1 << 62
Rank = tuple[int, int]


def lru_depths(keys: NDArray[np.int32], starts: NDArray[np.int64], key_count: int) -> NDArray[np.int64]:
    """[key_count + 1]: requests by their key's depth in the order of last use; 0: the first for theirs."""
    depths = np.zeros(key_count + 1, np.int64)
    order: list[int] = []  # newest first
    for asked in _acquires(keys, starts):
        for key in asked:
            depths[order.index(key) + 1 if key in order else 0] += 1
        for key in asked:
            if key in order:
                order.remove(key)
            order.insert(0, key)
    return depths


def score_depths(
    keys: NDArray[np.int32], starts: NDArray[np.int64], key_count: int, kind: int, window: int
) -> NDArray[np.int64]:
    """The same for caches ruled by a score; see `locum_score_depths`."""
    acquires = list(_acquires(keys, starts))
    depths = np.zeros(key_count + 1, np.int64)
    stack: list[int] = []
    for asked, rank in zip(acquires, _ranks(acquires, key_count, kind, window), strict=True):
        for key in asked:
            depths[stack.index(key) + 1 if key in stack else 0] += 1
        kept: list[int] = list(asked)
        for size in range(len(asked) + 1, len(set(stack).union(asked)) + 1):
            others = [key for key in stack[:size] if key not in kept]
            kept.append(max(others, key=rank.__getitem__))
        stack = kept
    return depths


def replay(
    keys: NDArray[np.int32],
    starts: NDArray[np.int64],
    key_count: int,
    kind: int,
    capacity: int,
    *,
    period: int,
) -> tuple[int, int, int]:
    """(hits, evicted, streamed) of one cache; see `locum_replay`."""
    acquires = list(_acquires(keys, starts))
    coming = _next_uses(acquires)
    rank: dict[int, Rank] = {}
    uses = [0] * key_count
    stamp, turn = 0, period
    hits = evicted = streamed = 0
    for number, asked in enumerate(acquires):
        hits += sum(key in rank for key in asked)
        if period and stamp >= turn:
            turn = stamp + period
            uses = [count >> 1 for count in uses]
            rank = {key: (uses[key], when) for key, (_, when) in rank.items()}
        for key in asked:
            stamp += 1
            uses[key] += 1
            score = {RECENCY: 0, USES: uses[key], NEXT: -coming[number, key]}[kind]
            rank[key] = (score, stamp)
        fits = len(asked) <= capacity
        while len(rank) > capacity:
            worst = min((key for key in rank if not fits or key not in asked), key=rank.__getitem__)
            del rank[worst]
            evicted += worst not in asked
            streamed += worst in asked
    return hits, evicted, streamed


def _acquires(keys: NDArray[np.int32], starts: NDArray[np.int64]) -> Iterator[list[int]]:
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        yield keys[start:stop].tolist()


def _next_uses(acquires: Sequence[Sequence[int]]) -> dict[tuple[int, int], int]:
    """(acquire, key) to the acquire that asks for the key next."""
    coming: dict[int, int] = {}
    found = {}
    for number in range(len(acquires) - 1, -1, -1):
        for key in acquires[number]:
            found[number, key] = coming.get(key, NEVER)
        coming.update(dict.fromkeys(acquires[number], number))
    return found


def _ranks(
    acquires: Sequence[Sequence[int]], key_count: int, kind: int, window: int
) -> Iterator[dict[int, Rank]]:
    """After each acquire, the rank of every key used so far."""
    coming, score, used = _next_uses(acquires), [0] * key_count, dict[int, int]()
    stamp = 0
    for number, asked in enumerate(acquires):
        for key in asked:
            stamp += 1
            used[key] = stamp
            score[key] = score[key] + 1 if kind == USES else -coming[number, key]
        if kind == WINDOW:
            ahead = [key for later in acquires[number + 1 : number + 1 + window] for key in later]
            score = [ahead.count(key) for key in range(key_count)]
        yield {key: (score[key], when) for key, when in used.items()}

"""The replay passes against a brute force that shares nothing with them, the Ledger, and their twin."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_cases import few, thousands
from locum.native import library, replay, twin_replay
from locum.policy import create
from locum.policy.future import Future
from locum.residency.keys import GRAIN, KeySpace
from locum.residency.ledger import Ledger

KEYS = 7
Acquires = list[list[int]]


@st.composite
def requests(draw: Any, most: int = 4, longest: int = 40) -> Acquires:
    sets = st.sets(st.integers(0, KEYS - 1), min_size=1, max_size=most)
    return [sorted(asked) for asked in draw(st.lists(sets, min_size=1, max_size=longest))]


def flat(acquires: Acquires) -> tuple[Any, Any]:
    keys = np.array([key for asked in acquires for key in asked], np.int32)
    return keys, np.cumsum([0, *map(len, acquires)])


needs_library = pytest.mark.skipif(
    library.function("locum_replay") is None, reason="the package was built without a C++ compiler"
)
both = pytest.mark.parametrize(
    "where", [pytest.param(replay, marks=needs_library), twin_replay], ids=["native", "twin"]
)


def simulated(acquires: Acquires, size: int, worst: Callable[[int, Iterable[int]], int]) -> int:
    """Hits of a cache of `size`, which holds every acquire; `worst(number, others)` names who leaves."""
    cached: set[int] = set()
    hits = 0
    for number, asked in enumerate(acquires):
        hits += len(cached & set(asked))
        cached |= set(asked)
        while len(cached) > size:
            cached.remove(worst(number, cached - set(asked)))
    return hits


def last_use(acquires: Acquires, number: int, key: int) -> tuple[int, int]:
    return max((n, key) for n in range(number + 1) if key in acquires[n])


def by_recency(acquires: Acquires) -> Callable[[int, Iterable[int]], int]:
    return lambda number, others: min(others, key=lambda key: last_use(acquires, number, key))


def by_uses(acquires: Acquires) -> Callable[[int, Iterable[int]], int]:
    def rank(number: int, key: int) -> Any:
        return sum(key in asked for asked in acquires[: number + 1]), last_use(acquires, number, key)

    return lambda number, others: min(others, key=lambda key: rank(number, key))


def by_window(acquires: Acquires, window: int) -> Callable[[int, Iterable[int]], int]:
    def rank(number: int, key: int) -> Any:
        ahead = acquires[number + 1 : number + 1 + window]
        return sum(key in asked for asked in ahead), last_use(acquires, number, key)

    return lambda number, others: min(others, key=lambda key: rank(number, key))


def best_hits(acquires: Acquires, size: int) -> int:
    """The most hits that any choice of victims gives: every choice is tried."""

    @cache
    def best(number: int, cached: frozenset[int]) -> int:
        if number == len(acquires):
            return 0
        asked = frozenset(acquires[number])
        others = cached - asked
        room = size - len(asked)
        kept = [others] if len(others) <= room else [frozenset(k) for k in combinations(sorted(others), room)]
        return len(cached & asked) + max(best(number + 1, asked | k) for k in kept)

    return best(0, frozenset())


def sizes(acquires: Acquires) -> range:
    return range(max(map(len, acquires)), KEYS + 1)


def all_sizes_of_lru(where: Any, acquires: Acquires) -> None:
    depths = where.lru_depths(*flat(acquires), KEYS)
    assert depths[0] == len({key for asked in acquires for key in asked})
    for size in sizes(acquires):
        assert depths[1 : size + 1].sum() == simulated(acquires, size, by_recency(acquires))


@both
@few(300)
@given(acquires=requests())
def test_all_sizes_of_lru(where: Any, acquires: Acquires) -> None:
    all_sizes_of_lru(where, acquires)


@both
@thousands
@given(acquires=requests())
def test_all_sizes_of_lru_often(where: Any, acquires: Acquires) -> None:
    all_sizes_of_lru(where, acquires)


def all_sizes_of_scores(where: Any, acquires: Acquires, window: int) -> None:
    rules = {replay.USES: by_uses(acquires), replay.WINDOW: by_window(acquires, window)}
    for kind, rule in rules.items():
        depths = where.score_depths(*flat(acquires), KEYS, kind, window)
        assert depths.sum() == sum(map(len, acquires))
        for size in sizes(acquires):
            assert depths[1 : size + 1].sum() == simulated(acquires, size, rule), (kind, size)


@both
@few(300)
@given(acquires=requests(), window=st.integers(1, 6))
def test_all_sizes_of_scores(where: Any, acquires: Acquires, window: int) -> None:
    all_sizes_of_scores(where, acquires, window)


@both
@thousands
@given(acquires=requests(), window=st.integers(1, 6))
def test_all_sizes_of_scores_often(where: Any, acquires: Acquires, window: int) -> None:
    all_sizes_of_scores(where, acquires, window)


def nothing_beats_belady(where: Any, acquires: Acquires) -> None:
    depths = where.score_depths(*flat(acquires), KEYS, replay.NEXT, 0)
    for size in sizes(acquires):
        assert depths[1 : size + 1].sum() == best_hits(acquires, size)


@both
@few(100)
@given(acquires=requests(most=3, longest=14))
def test_nothing_beats_belady(where: Any, acquires: Acquires) -> None:
    nothing_beats_belady(where, acquires)


@both
@thousands
@given(acquires=requests(most=3, longest=14))
def test_nothing_beats_belady_often(where: Any, acquires: Acquires) -> None:
    nothing_beats_belady(where, acquires)


POLICIES = {
    "lru": (replay.RECENCY, 0), "lfu": (replay.USES, 0), "lfu-aging": (replay.USES, 5),
    "belady": (replay.NEXT, 0),
}  # fmt: skip


def by_ledger(acquires: Acquires, name: str, capacity: int) -> tuple[int, int, int]:
    params = {"period": 5} if name == "lfu-aging" else {}
    future = Future(enumerate(acquires))
    ledger = Ledger(
        KeySpace.uniform(1, KEYS, GRAIN), [capacity * GRAIN], create(name, **params), provides={"next"}
    )
    for step, asked in enumerate(acquires):
        ledger.step(step, 1, 1)
        ledger.acquire(0, asked, {"next": future.next_uses(step, asked)})
    return ledger.stats.hits, ledger.stats.evicted, ledger.stats.streamed


def one_size_is_the_ledger(where: Any, name: str, acquires: Acquires, capacity: int) -> None:
    kind, period = POLICIES[name]
    assert where.replay(*flat(acquires), KEYS, kind, capacity, period=period) == by_ledger(
        acquires, name, capacity
    )


@both
@pytest.mark.parametrize("name", POLICIES)
@few(200)
@given(acquires=requests(most=6), capacity=st.integers(0, KEYS))
def test_one_size_is_the_ledger(where: Any, name: str, acquires: Acquires, capacity: int) -> None:
    one_size_is_the_ledger(where, name, acquires, capacity)


@both
@pytest.mark.parametrize("name", POLICIES)
@thousands
@given(acquires=requests(most=6), capacity=st.integers(0, KEYS))
def test_one_size_is_the_ledger_often(where: Any, name: str, acquires: Acquires, capacity: int) -> None:
    one_size_is_the_ledger(where, name, acquires, capacity)


@needs_library
@pytest.mark.parametrize("seed", range(3))
def test_long_runs_equal_the_twin(seed: int) -> None:
    """Long enough that times are renumbered many times over."""
    random = np.random.default_rng(seed)
    acquires: Sequence[Any] = [
        np.sort(random.choice(50, random.integers(1, 9), replace=False)) for _ in range(3000)
    ]
    keys, starts = flat([asked.tolist() for asked in acquires])
    assert np.array_equal(replay.lru_depths(keys, starts, 50), twin_replay.lru_depths(keys, starts, 50))
    for kind in (replay.RECENCY, replay.USES, replay.NEXT):
        for capacity in (0, 3, 8, 20, 49, 50):
            period = 97 if kind == replay.USES else 0
            assert replay.replay(keys, starts, 50, kind, capacity, period=period) == twin_replay.replay(
                keys, starts, 50, kind, capacity, period=period
            )


def test_without_the_library_the_twin_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_KERNELS", "reference")
    assert library.function("locum_replay") is None
    assert replay.replay(*flat([[0, 1], [0, 2], [1]]), 3, replay.RECENCY, 2) == (1, 2, 0)

"""The conformance suite passes what is right and names what is wrong."""

import random
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import pytest

from locum.errors import PolicyError
from locum.policy import EVICTION, create
from locum.policy.base import EvictionPolicy, Info, Scope
from locum.policy.check import check_policy
from locum.policy.lfu import LFU
from locum.policy.lru import LRU


@pytest.mark.parametrize("name", sorted(EVICTION))
def test_our_policies_keep_the_contract(name: str) -> None:
    check_policy(create(name))


class TakesProtected(LRU):
    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        return super().victims(need, ())


class TooLittle(LRU):
    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        return super().victims(need, protected)[:-1]


class TooMuch(LRU):
    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        chosen = super().victims(need, protected)
        return chosen + [key for key in list(self._order)[:1] if key not in protected]


class NeverForgets(LRU):
    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        chosen = super().victims(need, protected)
        for key in chosen:
            self._order[key] = None
        return chosen


class DeafToDrop(LRU):
    def drop(self, key: int) -> None:
        pass


class AdmitsEverything(LRU):
    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        super().use(tick, layer, ids, ids, info)


class Unseeded(LRU):
    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        keys = list(self._order)
        random.shuffle(keys)
        self._order.clear()
        self._order.update(dict.fromkeys(keys))
        return super().victims(need, protected)


class LargestIdFirst(LRU):
    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        super().use(tick, layer, ids[::-1], new[::-1], info)


class FollowsProtectedOrder(LRU):
    """Prefers victims by where `protected` puts its first member."""

    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        first = next(iter(protected), 0)
        if first < 0 or first % 2:
            self._order.move_to_end(next(iter(self._order)))
        return super().victims(need, protected)


class ChangesArguments(LRU):
    def use(self, tick: int, layer: int, ids: Any, new: Any, info: Info | None) -> None:
        super().use(tick, layer, ids, new, info)
        ids.reverse()


class UnknownNeed(LRU):
    needs = frozenset({"horoscope"})


class Returns(LRU):
    def victims(self, need: int, protected: Collection[int]) -> Any:
        return tuple(super().victims(need, protected))


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (TakesProtected, "a protected expert was named"),
        (TooLittle, "too little"),
        (TooMuch, "more victims than needed|named twice"),
        (NeverForgets, "a victim was not resident|too little"),
        (DeafToDrop, "a victim was not resident"),
        (AdmitsEverything, "a victim was not resident"),
        (Unseeded, "different victims|ties"),
        (LargestIdFirst, "ties must break"),
        (FollowsProtectedOrder, "how `protected` is stored"),
        (ChangesArguments, "`use` changed its arguments"),
        (UnknownNeed, "unknown.*horoscope"),
        (Returns, "must return a list"),
    ],
)
def test_each_breach_is_named(broken: type[EvictionPolicy], rule: str) -> None:
    with pytest.raises(PolicyError, match=rule):
        check_policy(broken)


class StaticPreference(LFU):
    """Even keys are dearer from the start, so equal histories are no ties."""

    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        for key in ids:
            self._count.setdefault(key, 0 if key % 2 else 1000)
        super().use(tick, layer, ids, new, info)


def test_ties_can_be_left_out_for_policies_that_have_none() -> None:
    check_policy(StaticPreference, ties=False)
    with pytest.raises(PolicyError, match="ties"):
        check_policy(StaticPreference)


class HearsEverything(LRU):
    """Optional events arrive."""

    heard: ClassVar[set[str]] = set()

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        assert scope.layers == 3
        assert len(scope.sizes) == len(scope.layer_of)

    def request(self, request: int, begin: bool) -> None:
        self.heard.add("request")

    def step(self, number: int, phase: int, tokens: int) -> None:
        self.heard.add("step")

    def forecast(self, ahead: int, layer: int, ids: Sequence[int], confidence: Sequence[float]) -> None:
        self.heard.add("forecast")

    def resize(self, capacity: int) -> None:
        self.heard.add("resize")


def test_the_suite_plays_every_event() -> None:
    check_policy(HearsEverything)
    assert HearsEverything.heard == {"request", "step", "forecast", "resize"}

"""The Ledger against the naive Ledger, and the rules that have names."""

from collections.abc import Collection
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from helpers_ledger import SCORED, NaiveLedger
from helpers_residency import LAYERS, key_space
from locum.errors import PolicyError, UsageError
from locum.policy import create
from locum.policy.lru import LRU
from locum.residency.keys import GRAIN, KeySpace
from locum.residency.ledger import Ledger


class LedgerMachine(RuleBasedStateMachine):
    """Any events in any order: the two Ledgers decide alike."""

    @initialize(
        sizes=st.sampled_from([(3,), (2, 5)]),
        capacities=st.tuples(st.integers(0, 60), st.integers(0, 30)),
        pool=st.integers(0, 12),
        wave=st.sampled_from(["rank", "bypass"]),
        policy=st.sampled_from(SCORED),
    )
    def make(
        self, sizes: tuple[int, ...], capacities: tuple[int, int], pool: int, wave: str, policy: str
    ) -> None:
        params = {"period": 7} if policy == "lfu-aging" else {}
        self.keys = key_space(sizes)
        bytes_of = [capacity * GRAIN for capacity in capacities]
        self.real = Ledger(
            self.keys,
            bytes_of,
            create(policy, **params),
            speculation=pool * GRAIN,
            wave=wave,  # type: ignore[arg-type]
            provides={"next"},
        )
        self.naive = NaiveLedger(self.keys, bytes_of, policy, pool * GRAIN, wave, **params)
        self.number = 0
        self.pins: list[list[int]] = []

    @rule()
    def step(self) -> None:
        self.number += 1
        self.real.step(self.number, 1, 1)
        self.naive.step(self.number)

    @rule(data=st.data(), layer=st.integers(0, LAYERS - 1), pin=st.booleans())
    def acquire(self, data: st.DataObject, layer: int, pin: bool) -> None:
        ids = sorted(data.draw(st.sets(st.sampled_from(sorted(self.keys.keys_of[layer])), min_size=1)))
        following = data.draw(st.lists(st.integers(0, 50), min_size=len(ids), max_size=len(ids)))
        following = [self.number * LAYERS + more for more in following]
        decision = self.real.acquire(layer, ids, {"next": following})
        assert tuple(decision) == self.naive.acquire(layer, ids, following)
        if pin:
            self.real.pin(ids)
            self.naive.pin(ids)
            self.pins.append(ids)

    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        if self.pins:
            at = data.draw(st.integers(0, len(self.pins) - 1))
            self.real.unpin(self.pins.pop(at))
            self.naive.unpin(at)

    @rule(data=st.data())
    def want(self, data: st.DataObject) -> None:
        key = st.integers(0, len(self.keys.resident) - 1)
        wants = data.draw(st.lists(st.tuples(key, st.integers(-1, 4)), max_size=6))
        wants = [(key, self.real.tick + ahead) for key, ahead in wants]
        assert self.real.want(wants) == self.naive.want(wants)

    @rule(group=st.integers(0, 1), capacity=st.integers(0, 60))
    def set_budget(self, group: int, capacity: int) -> None:
        decision = self.real.set_budget(group, capacity * GRAIN)
        assert decision.evicted == self.naive.set_budget(group, capacity * GRAIN)

    @rule(capacity=st.integers(0, 15))
    def set_speculation(self, capacity: int) -> None:
        decision = self.real.set_speculation(capacity * GRAIN)
        assert decision.cancelled == self.naive.set_speculation(capacity * GRAIN)

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        ids = sorted(data.draw(st.sets(st.integers(0, len(self.keys.resident) - 1), max_size=4)))
        decision = self.real.discard(ids)
        assert (decision.evicted, decision.cancelled) == self.naive.discard(ids)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "real"):
            self.real.check_integrity()
            for group in (0, 1):
                assert self.real.cached(group) == set(self.naive.cached[group])
            assert list(self.real.staged) == [key for key, _ in self.naive.stage]


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase


def ledger(slots: int, *, experts: int = 8, speculation: int = 0, wave: str = "rank") -> Ledger:
    keys = KeySpace.uniform(1, experts, GRAIN)
    return Ledger(keys, [slots * GRAIN], create("lru"), speculation=speculation * GRAIN, wave=wave)  # type: ignore[arg-type]


def test_everything_is_classified_against_the_state_before() -> None:
    led = ledger(3)
    assert led.acquire(0, [1, 2, 3]).misses == [1, 2, 3]
    decision = led.acquire(0, [0, 3])
    assert (decision.hits, decision.misses, decision.evicted) == ([3], [0], [1])
    assert led.stats.hit_rate == 1 / 5
    assert led.stats.requests == 5


def test_a_wave_ranks_or_bypasses() -> None:
    rank, bypass = ledger(2), ledger(2, wave="bypass")
    for led in (rank, bypass):
        led.acquire(0, [6, 7])
    decision = rank.acquire(0, [0, 1, 2, 7])
    assert (decision.hits, decision.misses) == ([7], [0, 1, 2])
    assert (decision.evicted, decision.streamed) == ([6], [0, 1])
    assert rank.cached(0) == {2, 7}
    decision = bypass.acquire(0, [0, 1, 2, 7])
    assert (decision.evicted, decision.streamed) == ([], [0, 1, 2])
    assert bypass.cached(0) == {6, 7}


def test_a_cold_bypass_fills_the_room_there_is() -> None:
    led = ledger(2, wave="bypass")
    assert led.acquire(0, [0, 1, 2, 3]).streamed == [2, 3]
    assert led.cached(0) == {0, 1}


def test_what_can_never_fit_streams_and_pushes_nobody_out() -> None:
    keys = key_space((2, 9))
    for wave in ("rank", "bypass"):
        led = Ledger(keys, [8 * GRAIN, 0], create("lru"), wave=wave)  # type: ignore[arg-type]
        led.acquire(0, [0, 1, 2])
        large = 3 * 8  # the first expert's second piece, larger than the capacity
        decision = led.acquire(0, [3, large])
        assert (decision.evicted, decision.streamed) == ([], [large])
        assert led.cached(0) == {0, 1, 2, 3}


def test_speculation_is_staged_promoted_or_cancelled() -> None:
    led = ledger(2, speculation=2)
    led.step(0, 1, 1)
    led.acquire(0, [0, 1])
    assert led.want([(1, 1), (2, 1), (3, 2), (4, 1)]) == [2, 3], "cached and beyond the pool are skipped"
    led.step(1, 1, 1)
    decision = led.acquire(0, [1, 3])
    assert (decision.hits, decision.staged, decision.misses) == ([1], [3], [])
    assert (decision.evicted, decision.cancelled) == ([0], [2])
    assert led.staged == ()
    assert led.stats.wasted == 1
    assert led.want([(5, 1)]) == [], "due already"


def test_hits_do_not_depend_on_speculation() -> None:
    with_it, without = ledger(3, speculation=4), ledger(3)
    for step, ids in enumerate([[0, 1], [2], [3, 4], [0], [2, 4], [1, 2, 3]] * 3):
        for led in (with_it, without):
            led.step(step, 1, 1)
        a, b = with_it.acquire(0, ids), without.acquire(0, ids)
        assert (a.hits, a.evicted, a.streamed) == (b.hits, b.evicted, b.streamed)
        assert sorted(a.staged + a.misses) == b.misses
        with_it.want([(key, step + 1 + key % 2) for key in (5, 0, 3)])
    assert with_it.stats.staged > 0


def test_pinned_experts_stay_until_the_lease_closes() -> None:
    led = ledger(3)
    ids = [0, 1]
    led.acquire(0, ids)
    led.pin(ids)
    led.acquire(0, [2])
    assert led.acquire(0, [3]).evicted == [2]
    led.unpin(ids)
    assert led.acquire(0, [4]).evicted == [0]


def test_a_shrinking_budget_evicts_at_once_and_pinned_last() -> None:
    led = ledger(4)
    led.acquire(0, [0, 1])
    led.pin(pinned := [0, 1])
    led.acquire(0, [2, 3])
    assert led.set_budget(0, 2 * GRAIN).evicted == [2, 3]
    assert led.set_budget(0, 1 * GRAIN).evicted == [0]
    led.unpin(pinned)
    led.check_integrity()


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], [1, 8], [-1, 2]])
def test_ids_must_be_unique_ascending_and_of_the_layer(ids: list[int]) -> None:
    with pytest.raises(PolicyError, match="unique, ascending keys of its own layer"):
        ledger(3).acquire(0, ids)


def test_wants_must_be_keys() -> None:
    for key in (-1, 8):
        with pytest.raises(PolicyError, match="not a key"):
            ledger(3, speculation=2).want([(key, 5)])


def test_numbers_that_make_no_sense_are_refused() -> None:
    keys = KeySpace.uniform(1, 2, GRAIN)
    for capacities, options in (([], {}), ([-1], {}), ([1], {"speculation": -1}), ([1], {"wave": "tidal"})):
        with pytest.raises(UsageError):
            Ledger(keys, capacities, create("lru"), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        ledger(1).set_budget(0, -1)
    with pytest.raises(UsageError):
        ledger(1).set_speculation(-1)


class Broken(LRU):
    """Answers with what `answer` says."""

    answer: ClassVar[list[int]] = []

    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        return self.answer


@pytest.mark.parametrize("answer", [[], [0, 0], [5], [2], [0]])
def test_a_broken_policy_is_named_before_it_does_harm(
    answer: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "answer", answer)
    led = Ledger(KeySpace.uniform(1, 8, GRAIN), [3 * GRAIN], Broken)
    led.acquire(0, [0, 1, 2])
    with pytest.raises(PolicyError, match=r"Broken\.victims broke its contract"):
        led.acquire(0, [2, 3, 4])

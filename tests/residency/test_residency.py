"""The Residency as a whole: budgets, sizes, the log, opening and closing."""

from typing import Any

import pytest

from helpers_movers import SMALL_PAGE
from helpers_residency import Rig, by_hand
from locum.errors import BudgetError, UsageError
from locum.policy import create
from locum.residency.keys import KeySpace
from locum.residency.ledger import Ledger
from locum.residency.mover.base import State, Ticket
from locum.residency.mover.virtual import VirtualMover
from locum.residency.residency import Residency, arena_bytes
from locum.residency.slots import PAGE, ArenaSlots, NullBacking, minimum_bytes


def test_a_shrinking_budget_gives_pages_back_as_slots_come_to_rest() -> None:
    residency, mover = by_hand(4)
    lease = residency.acquire(0, [0, 1, 2, 3])
    for key in range(4):
        mover.end(key)
    assert next(lease)[0] == 0
    residency.set_budget(0, SMALL_PAGE)
    residency.check_integrity()
    assert residency.arena.budget == 2
    assert residency.ledger.cached(0) == {3}
    committed = [residency.arena.committed]
    for _ in lease:
        residency.check_integrity()
        committed.append(residency.arena.committed)
    lease.close()
    assert committed == sorted(committed, reverse=True)
    assert residency.arena.committed <= 2
    assert not residency.arena.unsettled
    assert set(residency.entries) == {3}


def test_a_budget_can_grow_up_to_what_was_reserved() -> None:
    residency, _ = by_hand(2)
    residency.set_budget(0, 5 * SMALL_PAGE)
    assert residency.arena.budget == 6
    before = residency.ledger.capacities
    with pytest.raises(UsageError, match="cannot grow so far"):
        residency.set_budget(0, 6 * SMALL_PAGE)
    assert residency.ledger.capacities == before
    residency.check_integrity()


def test_an_expert_larger_than_its_budget_streams_through() -> None:
    rig = Rig(sizes=(2, 9), capacities=(4, 0), speculation=0)
    large = [24, 25, 26]
    lease = rig.acquire(0, [0, 1, *large])
    assert lease.decision.streamed == large
    while rig.take(lease):
        pass
    rig.close_lease(lease)
    assert rig.ledger.cached(0) == {0, 1}
    rig.finish()


def test_the_log_can_be_a_list_or_a_function() -> None:
    log: list[Any] = []
    seen: list[Any] = []
    for target in (log, seen.append):
        residency, _ = by_hand(2, speculation=1, log=target)
        residency.acquire(0, [1]).close()
        residency.want([(2, 4)])
        residency.set_budget(0, 0)
        residency.set_speculation(0)
        residency.discard([1])
    assert [event[0] for event in log] == ["acquire", "want", "set_budget", "set_speculation", "discard"]
    assert seen == log
    assert log[0][1:3] == (0, (1,))
    assert log[2][3].evicted == [1]
    assert log[3][2].cancelled == [2]


def test_close_waits_until_every_slot_is_let_go() -> None:
    residency, mover = by_hand(2, speculation=1)
    lease = residency.acquire(0, [0, 1])
    residency.want([(3, 5)])
    mover.on_wait = [(0, State.CANCELLED), (1, State.DONE), (3, State.CANCELLED)]
    residency.close()
    assert not residency.arena.occupants()
    assert not residency.leases
    assert list(lease) == []
    residency.close()


def test_a_mover_that_cannot_start_costs_no_slot() -> None:
    residency, mover = by_hand(2)

    def refuse(*_: Any) -> Ticket:
        raise MemoryError

    mover.start = refuse  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        residency.acquire(0, [0, 1])
    residency.check_integrity()
    assert not residency.entries


def test_an_arena_that_is_too_small_is_refused() -> None:
    keys = KeySpace.uniform(2, 4, 3 << 20)
    ledger = Ledger(keys, [10 << 20], create("lru"), speculation=3 << 20)
    least = arena_bytes(keys, ledger.capacities, ledger.speculation)
    assert least == minimum_bytes((10 + 3 + 3) << 20, keys.classes) == 16 << 20
    assert arena_bytes(keys, ledger.capacities, ledger.speculation, in_flight=2) > least
    with pytest.raises(BudgetError) as error:
        Residency(ledger, VirtualMover(), ArenaSlots(keys.classes, least - PAGE, NullBacking()))
    assert error.value.minimum == least


def test_boundary_events_reach_the_policy() -> None:
    heard: list[Any] = []

    class Listens(create("lru").method):  # type: ignore[misc]
        def request(self, *what: Any) -> None:
            heard.append(what)

        step = forecast = request

    keys = KeySpace.uniform(1, 2, SMALL_PAGE)
    arena = ArenaSlots(keys.classes, 3 * SMALL_PAGE, NullBacking(), page=SMALL_PAGE)
    residency = Residency(Ledger(keys, [SMALL_PAGE], Listens), VirtualMover(), arena)
    residency.request(4, True)
    residency.step(7, 0, 3)
    residency.forecast(1, 0, [1], [0.5])
    assert heard == [(4, True), (7, 0, 3), (1, 0, [1], [0.5])]


def test_scattered_survivors_make_room_for_another_size() -> None:
    """One small expert is left on each page: they move together, and keep their bytes."""
    rig = Rig(sizes=(1, 5), capacities=(44, 0), speculation=0, failures=0.3)
    small = [list(range(8)), list(range(8, 16))]
    for layer, ids in [(0, small[0]), (1, small[1]), (0, small[0][::4]), (1, small[1][::4])]:
        everything(rig, layer, ids)
    for large in range(24, 32):
        everything(rig, 0, [large])
    assert rig.ledger.cached(0) == {0, 4, 8, 12, *range(24, 32)}
    assert rig.memory.moved > 0
    assert rig.residency.physical.retries > 0
    for layer in (0, 1):
        everything(rig, layer, small[layer][::4])
    rig.finish()


def everything(rig: Rig, layer: int, ids: list[int]) -> None:
    lease = rig.acquire(layer, ids)
    while rig.take(lease):
        pass
    rig.close_lease(lease)

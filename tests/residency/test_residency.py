"""The Residency, rule by rule: leases, waves, faults, draining, budgets."""

from collections.abc import Sequence
from typing import Any

import pytest
from helpers_residency import SMALL_PAGE, Rig

from locum.errors import BudgetError, LoadError, UsageError
from locum.policy import create
from locum.residency.keys import KeySpace
from locum.residency.ledger import Ledger
from locum.residency.mover.base import Mover, Priority, Slot, State, Ticket
from locum.residency.mover.virtual import VirtualMover
from locum.residency.residency import Residency, arena_bytes
from locum.residency.slots import PAGE, ArenaSlots, NullBacking, minimum_bytes


class ByHand(Mover):
    """Loads end when the test says so."""

    def __init__(self) -> None:
        self.started: list[Ticket] = []
        self.waits: list[list[int]] = []
        self.on_wait: list[tuple[int, State]] = []
        self.clock = 0.0

    def start(self, key: int, slot: Slot, priority: Priority, after: Ticket | None = None) -> Ticket:
        ticket = Ticket(key, slot, priority, after)
        ticket.state = State.RUNNING
        self.started.append(ticket)
        return ticket

    def end(self, key: int, state: State = State.DONE) -> None:
        ticket = next(t for t in self.started if t.key == key and not t.terminal)
        ticket.error = OSError(f"bad sector under {key}") if state is State.FAILED else None
        ticket.state = state

    def promote(self, ticket: Ticket, priority: Priority) -> None:
        ticket.priority = priority

    def cancel(self, ticket: Ticket) -> bool:
        return ticket.terminal

    def wait_any(self, tickets: Sequence[Ticket]) -> None:
        self.waits.append([ticket.key for ticket in tickets])
        self.clock += 1.0
        assert self.on_wait, f"a wait that never ends, on {self.waits[-1]}"
        self.end(*self.on_wait.pop(0))

    def advance(self, seconds: float) -> None:
        self.clock += seconds

    def now(self) -> float:
        return self.clock

    def close(self) -> None:
        return None

    @property
    def keys(self) -> list[int]:
        return [ticket.key for ticket in self.started]


def make(slots: int, *, experts: int = 8, speculation: int = 0, **options: Any) -> tuple[Residency, ByHand]:
    """One layer, slots of one page each, so that the arena holds exactly slots + speculation + 1."""
    keys = KeySpace.uniform(1, experts, SMALL_PAGE, 1000)
    ledger = Ledger(keys, [slots * SMALL_PAGE], create("lru"), speculation=speculation * SMALL_PAGE)
    budget = arena_bytes(keys, ledger.capacities, ledger.speculation, page=SMALL_PAGE)
    assert budget == (slots + speculation + 1) * SMALL_PAGE
    mover = ByHand()
    arena = ArenaSlots(keys.classes, budget, NullBacking(), reserve=2 * budget, page=SMALL_PAGE)
    return Residency(ledger, mover, arena, **options), mover


def test_hits_come_first_then_arrivals() -> None:
    residency, mover = make(4)
    mover.on_wait = [(0, State.DONE), (3, State.DONE)]
    with residency.acquire(0, [0, 3]) as lease:
        assert [key for key, _ in lease] == [0, 3]
    mover.on_wait = [(5, State.DONE), (2, State.DONE)]
    with residency.acquire(0, [0, 2, 3, 5]) as lease:
        assert lease.decision.hits == [0, 3]
        assert [key for key, _ in lease] == [0, 3, 5, 2]
    assert mover.keys == [0, 3, 2, 5], "loads start in id order"
    assert residency.physical.bytes_read == 4000
    assert residency.physical.stall_s == 4.0
    residency.check_integrity()


def test_a_slot_is_kept_until_the_next_one_is_taken() -> None:
    """Streaming through one slot: the second load starts only when the first expert is given back."""
    residency, mover = make(0)
    mover.on_wait = [(0, State.DONE), (1, State.DONE), (2, State.DONE)]
    lease = residency.acquire(0, [0, 1, 2])
    assert mover.keys == [0]
    first = next(lease)
    assert mover.keys == [0]
    assert next(lease)[1] == first[1], "the only slot there is"
    assert mover.keys == [0, 1]
    assert next(lease)[0] == 2
    with pytest.raises(StopIteration):
        next(lease)
    lease.close()
    assert not residency.entries


def test_a_draining_slot_is_not_used_again() -> None:
    residency, mover = make(1)
    residency.acquire(0, [0]).close()
    residency.acquire(0, [1]).close()
    old = mover.started[0]
    assert (len(residency.draining), old.state) == (1, State.RUNNING)
    lease = residency.acquire(0, [2])
    assert mover.keys == [0, 1], "two slots: both are still being written"
    mover.on_wait = [(0, State.CANCELLED), (2, State.DONE)]
    assert next(lease)[1] == old.slot
    assert set(mover.waits[0]) == {0, 1}, "waited for the drains"
    lease.close()
    residency.check_integrity()


def test_failed_loads_are_tried_again_in_their_slot() -> None:
    residency, mover = make(2, retries=2)
    mover.on_wait = [(4, State.FAILED), (4, State.FAILED), (4, State.DONE)]
    with residency.acquire(0, [4]) as lease:
        assert [key for key, _ in lease] == [4]
    assert residency.physical.retries == 2
    assert len({ticket.slot for ticket in mover.started}) == 1


def test_a_load_that_keeps_failing_is_an_error_that_says_which() -> None:
    residency, mover = make(2, retries=1)
    mover.on_wait = [(4, State.FAILED), (4, State.FAILED), (5, State.DONE)]
    with residency.acquire(0, [4, 5]) as lease:
        with pytest.raises(
            LoadError, match="could not be read in layer 0, expert 4; got bad sector under 4"
        ) as error:
            next(lease)
        assert isinstance(error.value.__cause__, OSError)
        residency.check_integrity()
        assert next(lease)[0] == 5, "the lease goes on with the others"
    assert residency.ledger.owns(4), "the Ledger is not told"
    mover.on_wait = [(4, State.DONE)]
    with residency.acquire(0, [4]) as lease:
        assert lease.decision.hits == [4]
        assert next(lease)[0] == 4
    assert residency.physical.late == 1


def test_two_loads_that_fail_together_are_two_errors() -> None:
    residency, mover = make(3, retries=0)
    lease = residency.acquire(0, [0, 1, 2])
    for key in (0, 1):
        mover.end(key, State.FAILED)
    mover.end(2)
    for expert in (0, 1):
        with pytest.raises(LoadError, match=f"expert {expert};"):
            next(lease)
        residency.check_integrity()
    assert next(lease)[0] == 2
    lease.close()
    residency.check_integrity()


def test_an_abandoned_lease_leaves_the_ledger_alone_and_loads_running() -> None:
    residency, mover = make(2)
    with residency.acquire(0, [0, 1]) as lease:
        pass
    lease.close()
    assert residency.ledger.cached(0) == {0, 1}
    mover.end(1)
    mover.on_wait = [(0, State.DONE)]
    with residency.acquire(0, [0, 1]) as lease:
        assert lease.decision.hits == [0, 1]
        assert [key for key, _ in lease] == [1, 0], "1 had landed meanwhile"
    assert residency.physical.late == 1
    assert mover.keys == [0, 1], "nothing was loaded twice"


def test_what_was_never_started_is_loaded_when_next_asked_for() -> None:
    residency, mover = make(3)
    residency.acquire(0, [0, 1, 2]).close()
    residency.acquire(0, [3, 4, 5]).close()
    assert mover.keys == [0, 1, 2, 3], "0, 1, 2 drain; one slot was left"
    for key in (0, 1, 2):
        mover.end(key, State.CANCELLED)
    mover.end(3)
    mover.on_wait = [(4, State.DONE), (5, State.DONE)]
    with residency.acquire(0, [3, 4, 5]) as lease:
        assert lease.decision.hits == [3, 4, 5]
        assert [key for key, _ in lease] == [3, 4, 5]
    assert residency.physical.late == 2


def test_staged_experts_are_promoted_and_counted() -> None:
    residency, mover = make(2, speculation=2)
    residency.want([(6, 3), (7, 3)])
    assert [ticket.priority for ticket in mover.started] == [Priority.NEXT] * 2
    mover.end(6)
    residency.step(1, 1, 1)
    lease = residency.acquire(0, [6, 7])
    assert lease.decision.staged == [6, 7]
    assert mover.started[1].priority is Priority.DEMAND
    assert (residency.physical.ready, residency.physical.late) == (1, 1)
    assert next(lease)[0] == 6
    lease.close()


def test_speculation_waits_while_demand_wants_slots() -> None:
    residency, mover = make(0, speculation=1)
    lease = residency.acquire(0, [0, 1, 2])
    assert mover.keys == [0, 1], "demand may use the speculation pool's slot while it is free"
    residency.want([(5, 9)])
    assert mover.keys == [0, 1]
    mover.on_wait = [(0, State.DONE), (1, State.DONE), (2, State.DONE)]
    assert [key for key, _ in lease] == [0, 1, 2]
    lease.close()
    assert mover.keys == [0, 1, 2, 5]
    assert mover.started[-1].priority is Priority.SPECULATIVE


def test_overdue_speculation_is_cancelled_and_drains() -> None:
    residency, mover = make(1, speculation=1)
    residency.step(0, 1, 1)
    residency.want([(5, 1)])
    residency.step(1, 1, 1)
    lease = residency.acquire(0, [0])
    assert lease.decision.cancelled == [5]
    assert [entry.key for entry in residency.draining] == [5]
    lease.close()
    mover.end(5, State.CANCELLED)
    residency.check_integrity()


def test_a_shrinking_budget_gives_pages_back_as_slots_come_to_rest() -> None:
    residency, mover = make(4)
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
    residency, _ = make(2)
    residency.set_budget(0, 5 * SMALL_PAGE)
    assert residency.arena.budget == 6
    before = residency.ledger.capacities
    with pytest.raises(UsageError, match="cannot grow so far"):
        residency.set_budget(0, 6 * SMALL_PAGE)
    assert residency.ledger.capacities == before
    residency.check_integrity()


def test_nested_leases_that_hold_everything_are_told_so() -> None:
    residency, mover = make(1)
    mover.on_wait = [(0, State.DONE), (1, State.DONE)]
    outer = residency.acquire(0, [0, 1])
    taken = next(outer)
    inner = residency.acquire(0, [2])
    with pytest.raises(BudgetError, match="open leases hold every slot"):
        next(inner)
    inner.close()
    assert next(outer) != taken
    outer.close()
    residency.check_integrity()


def test_two_leases_can_share_an_expert() -> None:
    residency, mover = make(0)
    mover.on_wait = [(0, State.DONE)]
    outer = residency.acquire(0, [0])
    key, slot = next(outer)
    with residency.acquire(0, [0]) as inner:
        assert inner.decision.misses == [0], "streamed: the Ledger does not own it"
        assert next(inner) == (key, slot)
    residency.check_integrity()
    assert 0 in residency.entries, "the outer lease still has it"
    outer.close()
    assert not residency.entries
    assert mover.keys == [0]


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
        residency, _ = make(2, speculation=1, log=target)
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
    residency, mover = make(2, speculation=1)
    lease = residency.acquire(0, [0, 1])
    residency.want([(3, 5)])
    mover.on_wait = [(0, State.CANCELLED), (1, State.DONE), (3, State.CANCELLED)]
    residency.close()
    assert not residency.arena.occupants()
    assert not residency.leases
    assert list(lease) == []
    residency.close()


def test_a_mover_that_cannot_start_costs_no_slot() -> None:
    residency, mover = make(2)

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
    """Every other small expert is evicted by large ones: the rest move together, and keep their bytes."""
    rig = Rig(sizes=(1, 9), capacities=(48, 0), speculation=0, failures=0.3)
    small = [list(range(8)), list(range(8, 16))]
    for layer, ids in [(0, small[0]), (1, small[1]), (0, small[0][::2]), (1, small[1][::2])]:
        everything(rig, layer, ids)
    for large in range(24, 28):
        everything(rig, 0, [large])
    assert rig.ledger.cached(0) == {0, 2, 4, 6, 8, 10, 12, 14, 24, 25, 26, 27}
    assert rig.memory.moved > 0
    everything(rig, 0, small[0][::2])
    assert rig.residency.physical.retries > 0
    rig.finish()


def everything(rig: Rig, layer: int, ids: list[int]) -> None:
    lease = rig.acquire(layer, ids)
    while rig.take(lease):
        pass
    rig.close_lease(lease)

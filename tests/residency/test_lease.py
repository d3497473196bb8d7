"""Leases, rule by rule: order, slots, faults, draining, speculation, nesting."""

import pytest

from helpers_movers import ByHand
from helpers_residency import Rig, by_hand
from locum.errors import BudgetError, LoadError
from locum.residency.mover.base import Priority, State


def test_hits_come_first_then_arrivals() -> None:
    residency, mover = by_hand(4)
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
    residency, mover = by_hand(0)
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
    residency, mover = by_hand(1)
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
    residency, mover = by_hand(2, retries=2)
    mover.on_wait = [(4, State.FAILED), (4, State.FAILED), (4, State.DONE)]
    with residency.acquire(0, [4]) as lease:
        assert [key for key, _ in lease] == [4]
    assert residency.physical.retries == 2
    assert len({ticket.slot for ticket in mover.started}) == 1


def test_a_load_that_keeps_failing_is_an_error_that_says_which() -> None:
    residency, mover = by_hand(2, retries=1)
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
    residency, mover = by_hand(3, retries=0)
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
    residency, mover = by_hand(2)
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
    residency, mover = by_hand(3)
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
    residency, mover = by_hand(2, speculation=2)
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
    residency, mover = by_hand(0, speculation=1)
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
    residency, mover = by_hand(1, speculation=1)
    residency.step(0, 1, 1)
    residency.want([(5, 1)])
    residency.step(1, 1, 1)
    lease = residency.acquire(0, [0])
    assert lease.decision.cancelled == [5]
    assert [entry.key for entry in residency.draining] == [5]
    lease.close()
    mover.end(5, State.CANCELLED)
    residency.check_integrity()


def test_nested_leases_that_hold_everything_are_told_so() -> None:
    residency, mover = by_hand(1)
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
    residency, mover = by_hand(0)
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


def test_a_slot_that_comes_free_is_for_demand_not_for_speculation() -> None:
    residency, mover = by_hand(0, speculation=1)
    residency.acquire(0, [6, 7]).close()
    lease = residency.acquire(0, [0])
    assert mover.keys == [6, 7], "both slots drain"
    for key in (6, 7):
        mover.end(key, State.CANCELLED)
    residency.want([(5, 9)])
    assert mover.keys == [6, 7]
    mover.on_wait = [(0, State.DONE)]
    assert next(lease)[0] == 0
    lease.close()
    assert mover.keys == [6, 7, 0, 5]


def test_a_failing_load_that_two_leases_share_stays_with_the_other() -> None:
    residency, mover = by_hand(2, retries=1)
    outer, inner = residency.acquire(0, [3]), residency.acquire(0, [3])
    mover.on_wait = [(3, State.FAILED), (3, State.FAILED), (3, State.DONE)]
    with pytest.raises(LoadError):
        next(inner)
    residency.check_integrity()
    inner.close()
    assert next(outer)[0] == 3, "the outer lease has its own tries"
    outer.close()
    residency.check_integrity()


def test_room_is_waited_for_while_reads_nobody_holds_are_in_the_way() -> None:
    """Four small reads of an abandoned lease, one on each page, block a large one until they have landed."""
    rig = Rig(sizes=(1, 5), capacities=(44, 0), speculation=0)
    residency, mover = rig.residency, ByHand()
    residency.mover = mover
    for layer, ids in ((0, range(8)), (1, range(8, 16))):
        residency.acquire(layer, list(ids)).close()
    slow = [0, 4, 8, 12]
    for key in sorted(set(range(16)).difference(slow)):
        mover.end(key)
    residency.acquire(0, [0, 4]).close()
    residency.acquire(1, [8, 12]).close()
    for large in range(24, 32):
        mover.on_wait = [(key, State.DONE) for key in slow] if large == 31 else []
        mover.on_wait.append((large, State.DONE))
        with residency.acquire(0, [large]) as lease:
            assert next(lease)[0] == large
        residency.check_integrity()
    assert any(set(wait) <= set(slow) for wait in mover.waits), "the large read had to wait for room"
    assert rig.memory.moved > 0


def test_speculation_that_was_asked_for_before_it_started_is_speculation_no_more() -> None:
    residency, mover = by_hand(1, speculation=1)
    residency.acquire(0, [0, 1, 2]).close()
    residency.want([(5, 9)])
    lease = residency.acquire(0, [5])
    assert lease.decision.staged == [5]
    lease.close()
    residency.check_integrity()
    assert mover.keys == [0, 1, 2], "all three slots are still being written"
    for key in (0, 1, 2):
        mover.end(key, State.CANCELLED)
    residency.acquire(0, [5]).close()
    assert mover.keys == [0, 1, 2, 5]
    assert mover.started[-1].priority is Priority.DEMAND

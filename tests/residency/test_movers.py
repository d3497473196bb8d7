"""The contract of Movers, for every one that lives in this room, and what is special about each."""

from collections.abc import Callable, Iterator

import pytest

from helpers_movers import Memory, ThreadMover
from locum.errors import UsageError
from locum.residency.keys import GRAIN
from locum.residency.mover.base import Mover, Priority, Slot, State, Ticket
from locum.residency.mover.faulty import FaultyMover
from locum.residency.mover.throttled import BLOCK, ThrottledMover
from locum.residency.mover.virtual import VirtualClock, VirtualMover

Make = Callable[[Memory], Mover]

BLOCKS = 3


def virtual(memory: Memory) -> Mover:
    return VirtualMover(1e-3, blocks_of=lambda _: BLOCKS, write=memory.write)


MOVERS: dict[str, Make] = {
    "virtual": virtual,
    "faulty": lambda memory: FaultyMover(virtual(memory)),
    "late": lambda memory: FaultyMover(virtual(memory), delays=1.0, delay_s=0.01),
    "throttled": lambda memory: ThrottledMover(virtual(memory), lambda _: BLOCKS * BLOCK, 1e9),
    "throttled threads": lambda memory: ThrottledMover(
        ThreadMover(memory.write, 1, BLOCKS), lambda _: 100, 1e9
    ),
    "threads": lambda memory: ThreadMover(memory.write, 1, BLOCKS),
}


def slot(number: int) -> Slot:
    return Slot(number * 2 * GRAIN, 2 * GRAIN)


@pytest.fixture
def memory() -> Memory:
    memory = Memory()
    memory.commit(0, 100 * memory.page)
    return memory


@pytest.fixture(params=list(MOVERS))
def mover(request: pytest.FixtureRequest, memory: Memory) -> Iterator[Mover]:
    mover = MOVERS[request.param](memory)
    yield mover
    mover.close()
    mover.close()


def wait(mover: Mover, *tickets: Ticket) -> None:
    for ticket in tickets:
        mover.wait_any([ticket])
        assert ticket.terminal


def test_done_means_the_bytes_are_there(mover: Mover, memory: Memory) -> None:
    tickets = [mover.start(key, slot(key), Priority.DEMAND) for key in range(6)]
    assert not any(ticket.terminal for ticket in tickets[1:])
    before = mover.now()
    wait(mover, *tickets)
    assert mover.now() >= before
    for ticket in tickets:
        assert ticket.state is State.DONE
        assert not ticket.failed
        assert ticket.error is None
        assert memory.holds(ticket.slot, ticket.key)


def test_waiting_ends_with_the_first(mover: Mover) -> None:
    tickets = [mover.start(key, slot(key), Priority.DEMAND) for key in range(4)]
    mover.wait_any(tickets)
    assert any(ticket.terminal for ticket in tickets)
    assert not all(ticket.terminal for ticket in tickets) or isinstance(mover, ThreadMover)
    wait(mover, *tickets)


def test_cancelling_what_is_queued_is_final(mover: Mover, memory: Memory) -> None:
    first = mover.start(0, slot(0), Priority.DEMAND)
    second = mover.start(1, slot(1), Priority.SPECULATIVE)
    assert mover.cancel(second)
    assert second.state is State.CANCELLED
    assert second.failed
    wait(mover, first)
    assert not memory.holds(slot(1), 1)
    assert mover.cancel(first), "terminal already"
    assert first.state is State.DONE


def test_cancelling_what_runs_ends_it_soon(memory: Memory) -> None:
    for make in (virtual, lambda m: FaultyMover(virtual(m)), MOVERS["throttled"]):
        mover = make(memory)
        ticket = mover.start(7, slot(7), Priority.DEMAND)
        assert ticket.state is State.RUNNING
        assert not mover.cancel(ticket), "a block is under way"
        wait(mover, ticket)
        assert ticket.state is State.CANCELLED
        written = dict(memory.cells)
        mover.advance(1.0)
        assert memory.cells == written, "written to after its end"


def test_demand_overtakes_between_blocks(memory: Memory) -> None:
    for make in (virtual, MOVERS["throttled"]):
        mover = make(memory)
        slow = [mover.start(key, slot(key), Priority.SPECULATIVE) for key in (0, 1)]
        urgent = mover.start(2, slot(2), Priority.DEMAND)
        mover.wait_any([urgent, *slow])
        assert urgent.state is State.DONE
        assert not any(ticket.terminal for ticket in slow)
        mover.promote(slow[1], Priority.NEXT)
        mover.promote(slow[1], Priority.SPECULATIVE)
        assert slow[1].priority is Priority.NEXT
        mover.wait_any(slow)
        assert slow[1].state is State.DONE
        assert not slow[0].terminal
        mover.promote(slow[1], Priority.DEMAND)
        mover.close()


def test_virtual_time_is_exact(memory: Memory) -> None:
    mover = VirtualMover(0.5, channels=2, blocks_of=lambda key: key + 1)
    tickets = [mover.start(key, slot(key), Priority.DEMAND) for key in range(3)]
    mover.advance(0.25)
    assert (mover.now(), tickets[0].state) == (0.25, State.RUNNING)
    mover.wait_any(tickets[:1])
    assert mover.now() == 0.5
    mover.wait_any(tickets[1:2])
    assert mover.now() == 1.0
    mover.wait_any(tickets[2:])
    assert mover.now() == 2.0
    mover.advance(1.0)
    assert mover.now() == 3.0


def test_jitter_depends_on_the_seed_alone() -> None:
    def end(seed: int) -> float:
        mover = VirtualMover(1.0, jitter=1.0, seed=seed, blocks_of=lambda _: 5)
        wait(mover, mover.start(0, slot(0), Priority.DEMAND))
        return mover.now()

    assert end(1) == end(1)
    assert end(1) != end(2)
    assert 5 < end(1) < 10


def test_tiers_share_a_clock() -> None:
    clock = VirtualClock()
    low, high = VirtualMover(1.0, clock=clock), VirtualMover(0.25, clock=clock)
    below = low.start(0, slot(0), Priority.DEMAND)
    above = high.start(0, slot(1), Priority.DEMAND, below)
    other = high.start(1, slot(2), Priority.SPECULATIVE)
    high.wait_any([other])
    assert (clock.seconds, above.state) == (0.25, State.QUEUED)
    high.wait_any([above])
    assert clock.seconds == 1.25
    assert below.state is State.DONE


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_what_waits_for_a_tier_below_fails_with_it(end: str) -> None:
    clock = VirtualClock()
    low: Mover = VirtualMover(1.0, clock=clock)
    if end == "fails":
        low = FaultyMover(low, failures=1.0)
    high = VirtualMover(0.25, clock=clock)
    first = low.start(9, slot(9), Priority.DEMAND)
    below = low.start(0, slot(0), Priority.DEMAND)
    above = high.start(0, slot(1), Priority.DEMAND, below)
    spared = high.start(2, slot(2), Priority.DEMAND, below)
    assert high.cancel(spared)
    if end == "is cancelled":
        assert low.cancel(below)
    low.wait_any([first])
    high.wait_any([above])
    assert above.state is State.FAILED
    assert "the tier below failed" in str(above.error)


def test_faults_follow_the_seed(memory: Memory) -> None:
    def fates(seed: int, failures: float) -> list[State]:
        mover = FaultyMover(virtual(memory), failures=failures, seed=seed)
        tickets = [mover.start(key, slot(key), Priority.DEMAND) for key in range(40)]
        wait(mover, *tickets)
        assert all(("injected" in str(ticket.error)) == ticket.failed for ticket in tickets)
        return [ticket.state for ticket in tickets]

    assert fates(1, 0.0) == [State.DONE] * 40
    assert fates(1, 1.0) == [State.FAILED] * 40
    assert fates(1, 0.5) == fates(1, 0.5) != fates(2, 0.5)
    assert {State.DONE, State.FAILED} == set(fates(1, 0.5))


def test_a_late_load_is_not_seen_early(memory: Memory) -> None:
    mover = FaultyMover(virtual(memory), delays=1.0, delay_s=0.01)
    ticket = mover.start(0, slot(0), Priority.DEMAND)
    mover.advance(BLOCKS * 1e-3 + 1e-9)
    assert memory.holds(slot(0), 0)
    assert ticket.state is State.RUNNING
    assert not mover.cancel(ticket) or ticket.state is State.CANCELLED
    other = mover.start(1, slot(1), Priority.DEMAND)
    mover.wait_any([other])
    assert other.state is State.DONE
    assert mover.now() >= 2 * BLOCKS * 1e-3 + 0.01


def test_a_throttled_mover_is_as_fast_as_its_device(memory: Memory) -> None:
    mover = ThrottledMover(virtual(memory), lambda _: 2 * BLOCK, 2 * BLOCK, channels=1)
    tickets = [mover.start(key, slot(key), Priority.DEMAND) for key in range(3)]
    for number, ticket in enumerate(tickets, 1):
        mover.wait_any([ticket])
        assert mover.now() == pytest.approx(number, abs=1e-6)
        assert ticket.state is State.DONE


def test_a_throttled_mover_is_no_faster_than_the_one_inside(memory: Memory) -> None:
    mover = ThrottledMover(virtual(memory), lambda _: 1, 1e15)
    wait(mover, mover.start(0, slot(0), Priority.DEMAND))
    assert mover.now() == pytest.approx(BLOCKS * 1e-3)


def test_throttled_threads_take_their_time(memory: Memory) -> None:
    mover = ThrottledMover(ThreadMover(memory.write), lambda _: BLOCK, 100 * BLOCK)
    before = mover.now()
    wait(mover, *[mover.start(key, slot(key), Priority.DEMAND) for key in range(3)])
    assert mover.now() - before >= 0.0299
    mover.close()


def test_a_throttled_mover_passes_faults_on(memory: Memory) -> None:
    mover = ThrottledMover(FaultyMover(virtual(memory), failures=1.0), lambda _: BLOCK, 1e9)
    ticket = mover.start(0, slot(0), Priority.DEMAND)
    wait(mover, ticket)
    assert ticket.state is State.FAILED
    assert "injected" in str(ticket.error)


def test_numbers_that_make_no_sense_are_refused(memory: Memory) -> None:
    with pytest.raises(UsageError):
        FaultyMover(virtual(memory), failures=1.5)
    with pytest.raises(UsageError):
        ThrottledMover(virtual(memory), lambda _: 1, 0.0)

"""Two readers on one load: it has the whole disk, and ends once, when all its blocks have."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers_gate import Gate
from helpers_store import Bench, index_of, plain_index, write_files
from locum.residency.mover.base import Priority, State, Ticket
from locum.store import layout as layouts
from locum.store.direct import DirectMover
from locum.store.index import Span

PAGE = 4096
BLOCKS = 3


class Stage:
    """Two experts of `BLOCKS` blocks each, one after the other in a file, and two readers at a gate."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.bench = Bench.of(plain_index(folder, 2, BLOCKS * PAGE))
        self.mover = DirectMover(self.bench.layout, self.bench.arena, threads=2)
        self.gate = Gate(patch)

    def start(self, key: int, priority: Priority = Priority.DEMAND) -> Ticket:
        return self.mover.start(key, self.bench.slots[key], priority)

    def next_blocks(self, count: int) -> list[int]:
        """The numbers, within the file, of the blocks that readers now stand before."""
        return sorted(self.gate.next() // PAGE for _ in range(count))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(layouts, "BLOCK_BYTES", PAGE)
    made = Stage(tmp_path, monkeypatch)
    yield made
    for _ in range(2 * BLOCKS):  # whoever still stands at the gate may pass
        made.gate.allow()
    made.mover.close()


def test_the_most_urgent_load_has_both(stage: Stage) -> None:
    first, second = stage.start(0), stage.start(1)
    assert stage.next_blocks(2) == [0, 1]
    stage.gate.allow()
    assert stage.next_blocks(1) == [2]
    stage.gate.allow()
    assert stage.next_blocks(1) == [3]  # only now the second one begins
    assert first.state == State.RUNNING
    stage.gate.allow()
    assert stage.next_blocks(1) == [4]
    for _ in range(3):
        stage.gate.allow()
    for ticket in (first, second):  # either reader may be slow to say what it has done
        stage.mover.wait_any([ticket])
    assert first.state == second.state == State.DONE
    assert not stage.bench.wrong_bytes(0)
    assert not stage.bench.wrong_bytes(1)


def test_demand_overtakes_a_shared_speculation(stage: Stage) -> None:
    stage.start(0, Priority.SPECULATIVE)
    assert stage.next_blocks(2) == [0, 1]
    stage.start(1)
    stage.gate.allow()
    stage.gate.allow()
    assert stage.next_blocks(2) == [3, 4]


def test_a_failure_waits_for_what_is_under_way(stage: Stage) -> None:
    failing, other = stage.start(0), stage.start(1)
    assert stage.next_blocks(2) == [0, 1]
    stage.gate.allow("eio")
    assert stage.next_blocks(1) == [3]  # the load is given up, and its reader goes on
    assert failing.state == State.RUNNING  # the other reader still writes to its slot
    for _ in range(4):
        stage.gate.allow()
    for ticket in (failing, other):
        stage.mover.wait_any([ticket])
    assert failing.state == State.FAILED
    assert other.state == State.DONE
    assert not stage.bench.wrong_bytes(1)


def test_cancelling_waits_for_both(stage: Stage) -> None:
    cancelled, other = stage.start(0), stage.start(1)
    assert stage.next_blocks(2) == [0, 1]
    assert not stage.mover.cancel(cancelled)
    stage.gate.allow()
    assert stage.next_blocks(1) == [3]
    assert cancelled.state == State.RUNNING
    for _ in range(4):
        stage.gate.allow()
    for ticket in (cancelled, other):
        stage.mover.wait_any([ticket])
    assert cancelled.state == State.CANCELLED


def test_runs_that_may_overlap_are_read_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two tensors far apart in the file meet inside a page of the slot: whoever comes second mends the rim
    far, half = 100 * PAGE, PAGE + PAGE // 2
    files = write_files(tmp_path, [far + 8 * PAGE])
    spans = [Span(0, 0, half, 0), Span(0, far + PAGE // 2, half, half)]
    plain = [Span(0, 4 * PAGE, 2 * half, 0)]
    bench = Bench.of(index_of(files, [(2 * half, [spans, plain])]))
    assert [block.joins for block in bench.layout.blocks(0)] == [False, False]
    mover = DirectMover(bench.layout, bench.arena, threads=2)
    gate = Gate(monkeypatch)
    try:
        tickets = [mover.start(key, bench.slots[key], Priority.DEMAND) for key in (0, 1)]
        assert {gate.next(), gate.next()} == {0, 4 * PAGE}  # the second reader does not touch the first load
        gate.allow()
        gate.allow()
        assert gate.next() == far
        gate.allow()
        while not all(ticket.terminal for ticket in tickets):
            mover.wait_any([ticket for ticket in tickets if not ticket.terminal])
        assert not any(bench.wrong_bytes(key) for key in (0, 1))
    finally:
        mover.close()

"""The reader pool's scheduling against a slow twin: a list, sorted afresh before every block."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from helpers_gate import Gate
from helpers_store import Bench, index_of, plain_index, write_files
from locum.errors import LoadError
from locum.residency.mover.base import Priority, State, Ticket
from locum.store import layout as layouts
from locum.store.direct import DirectMover
from locum.store.index import Span

PAGE = 4096
EXPERTS = 5


@dataclass
class Twin:
    """What the contract says about one ticket."""

    ticket: Ticket
    order: int
    offset: int
    blocks: int
    priority: Priority
    after: "Twin | None"
    state: State = State.QUEUED
    done: int = 0
    stop: bool = False
    followers: list["Twin"] = field(default_factory=list)

    def end(self, state: State) -> None:
        if self.state < State.DONE:
            self.state = state
            if state != State.DONE:
                for follower in self.followers:
                    follower.end(State.FAILED)

    @property
    def ready(self) -> bool:
        return self.state < State.DONE and (self.after is None or self.after.state == State.DONE)


class OneReader(RuleBasedStateMachine):
    """One thread, held at a gate before every block, beside its twin. Expert e is e + 1 blocks long."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(layouts, "BLOCK_BYTES", PAGE)
        files = write_files(Path(self.folder.name), [EXPERTS * EXPERTS * PAGE])
        layers = [
            ((e + 1) * PAGE, [[Span(0, e * EXPERTS * PAGE, (e + 1) * PAGE, 0)]]) for e in range(EXPERTS)
        ]
        self.bench = Bench.of(index_of(files, layers))
        self.mover = DirectMover(self.bench.layout, self.bench.arena, threads=1)
        self.gate = Gate(self.patch)
        self.twins: list[Twin] = []
        self.busy: Twin | None = None

    def some_twin(self) -> st.SearchStrategy[Twin]:
        """Mostly one that has not ended."""
        unended = [twin for twin in self.twins if twin.state < State.DONE]
        return st.sampled_from(unended * 5 + self.twins)

    def pick(self) -> None:
        """What the thread must take up next; wait until it has, if it was idle."""
        ready = sorted((twin for twin in self.twins if twin.ready), key=lambda t: (t.priority, t.order))
        if self.busy is None and ready:
            self.busy = ready[0]
            assert self.gate.next() == self.busy.offset + self.busy.done * PAGE
            self.busy.state = State.RUNNING

    @rule(expert=st.integers(0, EXPERTS - 1), priority=st.sampled_from(Priority), data=st.data())
    def start(self, expert: int, priority: Priority, data: st.DataObject) -> None:
        after = data.draw(st.none() | self.some_twin()) if self.twins else None
        ticket = self.mover.start(expert, self.bench.slots[expert], priority, after.ticket if after else None)
        twin = Twin(ticket, len(self.twins), expert * EXPERTS * PAGE, expert + 1, priority, after)
        if after and after.state in (State.FAILED, State.CANCELLED):
            twin.state = State.FAILED
        elif after:
            after.followers.append(twin)
        self.twins.append(twin)
        self.pick()

    @precondition(lambda self: self.twins)
    @rule(priority=st.sampled_from(Priority), data=st.data())
    def promote(self, priority: Priority, data: st.DataObject) -> None:
        twin = data.draw(self.some_twin())
        self.mover.promote(twin.ticket, priority)
        if twin.state < State.DONE:
            twin.priority = min(twin.priority, priority)

    @precondition(lambda self: self.twins)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        twin = data.draw(self.some_twin())
        terminal = self.mover.cancel(twin.ticket)
        assert terminal == (twin is not self.busy)
        if twin is self.busy:
            twin.stop = True
        else:
            twin.end(State.CANCELLED)

    @precondition(lambda self: self.busy)
    @rule(verdict=st.sampled_from(["ok", "ok", "ok", "eio", "bug"]))
    def serve(self, verdict: str) -> None:
        twin, self.busy = self.busy, None
        assert twin is not None
        self.gate.allow(verdict)
        twin.done += 1
        if twin.stop:
            twin.end(State.CANCELLED)
        elif verdict != "ok":
            twin.end(State.FAILED)
        elif twin.done == twin.blocks:
            twin.end(State.DONE)
        if twin.state >= State.DONE:
            self.mover.wait_any([twin.ticket])
        self.pick()

    @invariant()
    def same_states(self) -> None:
        for twin in self.twins:
            assert twin.ticket.state == twin.state, (twin.order, twin.ticket.state, twin.state)
            assert twin.ticket.terminal == (twin.state >= State.DONE)
            assert (twin.ticket.error is not None) == (twin.state == State.FAILED)
            assert twin.ticket.error is None or isinstance(twin.ticket.error, LoadError)

    def teardown(self) -> None:
        for twin in self.twins:
            if twin is not self.busy:
                self.mover.cancel(twin.ticket)
                twin.end(State.CANCELLED)
        while self.busy:
            self.serve("ok")
            self.same_states()
        self.mover.close()
        self.patch.undo()
        self.folder.cleanup()


TestOneReader = OneReader.TestCase
TestOneReader.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_demand_overtakes_speculation_between_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "BLOCK_BYTES", PAGE)
    bench = Bench.of(plain_index(tmp_path, 4, 3 * PAGE))
    mover = DirectMover(bench.layout, bench.arena, threads=1)
    gate = Gate(monkeypatch)
    try:
        tickets = [mover.start(0, bench.slots[0], Priority.SPECULATIVE)]
        seen = [gate.next()]  # under way before the others come
        for key, priority in ((1, Priority.NEXT), (2, Priority.DEMAND), (3, Priority.SPECULATIVE)):
            tickets.append(mover.start(key, bench.slots[key], priority))
        mover.promote(tickets[3], Priority.DEMAND)
        for _ in range(11):
            gate.allow()
            seen.append(gate.next())
        gate.allow()
        mover.wait_any([tickets[0]])
        order = [0, 6, 7, 8, 9, 10, 11, 3, 4, 5, 1, 2]
        assert seen == [PAGE * block for block in order]
        assert not any(bench.wrong_bytes(key) for key in range(4))
    finally:
        mover.close()


def test_promoting_what_must_wait_does_not_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "BLOCK_BYTES", PAGE)
    bench = Bench.of(plain_index(tmp_path, 2, 2 * PAGE))
    mover = DirectMover(bench.layout, bench.arena, threads=1)
    gate = Gate(monkeypatch)
    try:
        first = mover.start(0, bench.slots[0], Priority.SPECULATIVE)
        seen = [gate.next()]
        then = mover.start(1, bench.slots[1], Priority.SPECULATIVE, after=first)
        mover.promote(then, Priority.DEMAND)
        for _ in range(3):
            gate.allow()
            seen.append(gate.next())
        assert seen == [0, PAGE, 2 * PAGE, 3 * PAGE]
        gate.allow()
        mover.wait_any([then])
        assert then.priority == Priority.DEMAND
    finally:
        mover.close()


def test_two_threads_serve_two_tickets_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench.of(plain_index(tmp_path, 3, PAGE))
    mover = DirectMover(bench.layout, bench.arena, threads=2)
    gate = Gate(monkeypatch)
    try:
        tickets = [mover.start(key, bench.slots[key], Priority.DEMAND) for key in range(3)]
        assert sorted([gate.next(), gate.next()]) == [0, PAGE]
        assert gate.arrived.empty()
        assert tickets[2].state == State.QUEUED
        for _ in range(3):
            gate.allow()
        assert gate.next() == 2 * PAGE
    finally:
        mover.close()

"""Fake memory, and Movers for tests: one with real threads, one that is led by hand."""

import heapq
import random
import threading
import time
from collections.abc import Callable, Sequence

from locum.residency.keys import GRAIN
from locum.residency.mover.base import Mover, Priority, Slot, State, Ticket

SMALL_PAGE = 4 * GRAIN
JUNK = -1


class Memory:
    """A Backing and the bytes in it, one value per 4096 bytes: which key's they are, or JUNK."""

    def __init__(self, page: int = SMALL_PAGE) -> None:
        self.page = page
        self.cells: dict[int, int] = {}
        self.pages: set[int] = set()
        self.moved = 0

    def _cells(self, offset: int, length: int) -> range:
        return range(offset // GRAIN, (offset + length) // GRAIN)

    def commit(self, offset: int, length: int) -> None:
        assert offset % self.page == length % self.page == 0
        pages = set(range(offset // self.page, (offset + length) // self.page))
        assert not pages & self.pages, "committed twice"
        self.pages |= pages

    def decommit(self, offset: int, length: int) -> None:
        pages = set(range(offset // self.page, (offset + length) // self.page))
        assert pages <= self.pages, "decommitted what was not committed"
        self.pages -= pages
        for cell in self._cells(offset, length):
            self.cells.pop(cell, None)

    def move(self, source: int, target: int, length: int) -> None:
        old, new = self._cells(source, length), self._cells(target, length)
        assert not set(old) & set(new), "moved onto itself"
        for cell in (*old, *new):
            assert cell * GRAIN // self.page in self.pages, "moved over uncommitted memory"
        for a, b in zip(old, new, strict=True):
            self.cells[b] = self.cells.pop(a, JUNK)
        self.moved += 1

    def write(self, ticket: Ticket, last: bool) -> None:
        """A block of a load has landed: the slot holds junk until the last one."""
        for cell in self._cells(ticket.slot.offset, ticket.slot.size):
            assert cell * GRAIN // self.page in self.pages, "written to uncommitted memory"
            self.cells[cell] = ticket.key if last else JUNK

    def holds(self, slot: Slot, key: int) -> bool:
        return all(self.cells.get(cell) == key for cell in self._cells(slot.offset, slot.size))


class _Job(Ticket):
    __slots__ = ("busy", "left", "order", "stop")


class ThreadMover(Mover):
    """Real threads that dawdle at random: the stand-in for readers with an operating system behind them."""

    def __init__(
        self, write: Callable[[Ticket, bool], None], threads: int = 3, blocks: int = 2, seed: int = 0
    ) -> None:
        self._write, self._blocks = write, blocks
        self._rng = random.Random(seed)
        self._queue: list[tuple[int, int, _Job]] = []
        self._changed = threading.Condition()
        self._count, self._closed = 0, False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def start(self, key: int, slot: Slot, priority: Priority, after: Ticket | None = None) -> Ticket:
        assert after is None
        job = _Job(key, slot, priority)
        with self._changed:
            self._count += 1
            job.order, job.left, job.busy, job.stop = self._count, self._blocks, False, False
            self._put(job)
        return job

    def _put(self, job: _Job) -> None:
        heapq.heappush(self._queue, (job.priority, job.order, job))
        self._changed.notify_all()

    def promote(self, ticket: Ticket, priority: Priority) -> None:
        assert isinstance(ticket, _Job)
        with self._changed:
            if priority < ticket.priority and not ticket.terminal:
                ticket.priority = priority
                if not ticket.busy:
                    self._put(ticket)

    def cancel(self, ticket: Ticket) -> bool:
        assert isinstance(ticket, _Job)
        with self._changed:
            if not ticket.busy and not ticket.terminal:
                ticket.state = State.CANCELLED
            ticket.stop = True
            return ticket.terminal

    def _next(self) -> _Job | None:
        while True:
            while not self._queue and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            priority, _, job = heapq.heappop(self._queue)
            if not job.terminal and not job.busy and priority == job.priority:
                return job

    def _work(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                if job is None:
                    return
                job.state, job.busy = State.RUNNING, True
                nap = self._rng.choice([0.0, 0.0, 5e-5, 2e-4])
            time.sleep(nap)
            with self._changed:
                job.busy = False
                job.left -= 1
                self._write(job, job.left == 0 and not job.stop)
                if job.stop:
                    job.state = State.CANCELLED
                elif job.left:
                    self._put(job)
                else:
                    job.state = State.DONE
                self._changed.notify_all()

    def wait_any(self, tickets: Sequence[Ticket]) -> None:
        with self._changed:
            while not any(ticket.terminal for ticket in tickets):
                self._changed.wait(timeout=30)

    def advance(self, seconds: float) -> None:
        return None

    def now(self) -> float:
        return time.perf_counter()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()


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

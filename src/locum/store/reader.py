"""The thread pool under the real Movers: queue, priorities, cancelling, dependencies, counters.

Threads take one *step* (a block) of the most urgent job at a time, so a demanded expert overtakes speculation
after one block at the latest. Several threads may work on one job, at steps that do not build on each other:
then the most urgent expert has the whole disk, and arrives before the next instead of together with it.
"""

import heapq
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from locum.errors import LoadError, LocumError
from locum.residency.mover.base import Mover, Priority, Slot, State, Ticket
from locum.store.arena import Arena
from locum.store.checks import Checks, Verify
from locum.store.files import Files
from locum.store.layout import Layout

Step = TypeVar("Step")

POLL_SECONDS = 2.5e-4
"""How often idle threads look at tickets of other Movers that loads wait for."""


@dataclass(frozen=True, slots=True)
class ReadCounters:
    """What a Mover has done so far.

    `bytes_read` as asked of the disk, rounding included; `bytes_copied` by the processor afterwards; `reads`
    system calls; `busy_seconds` during which at least one thread was at work.
    """

    bytes_read: int = 0
    bytes_copied: int = 0
    reads: int = 0
    busy_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Served:
    """What one step cost."""

    bytes_read: int
    bytes_copied: int
    reads: int


class Job(Ticket, Generic[Step]):
    """A ticket with its steps. Everything but `state` and `error` belongs to the pool's lock."""

    __slots__ = (
        "busy", "done", "failure", "followers", "order", "parked", "steps", "stop", "taken", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        key: int,
        slot: Slot,
        priority: Priority,
        after: Ticket | None,
        *,
        steps: Sequence[Step],
        order: int,
    ) -> None:
        super().__init__(key, slot, priority, after)
        self.order, self.steps = order, steps
        self.taken = self.done = self.busy = 0
        self.failure: Exception | None = None
        self.stop = self.parked = False
        self.waiting = after is not None
        self.followers: list[Job[Step]] = []


class ReaderMover(Mover, Generic[Step]):
    """A Mover over open files with `threads` reader threads. Subclasses say what a step is and carry one out.

    `after` takes tickets of any Mover; those of another one are looked at between blocks and every
    `POLL_SECONDS`. Starting a load on a closed Mover raises `LoadError`.
    """

    def __init__(
        self, layout: Layout, arena: Arena, files: Files, threads: int, verify: Verify = "first"
    ) -> None:
        assert threads > 0, "a reader needs a thread"
        self.layout, self._arena, self._files = layout, arena, files
        self._checks = Checks(layout, verify)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)
        self._queue: list[tuple[int, int, Job[Step]]] = []
        self._live: dict[Job[Step], None] = {}
        self._foreign: list[Job[Step]] = []
        self._orders = 0
        self._closed = False
        self._active, self._since = 0, 0.0
        self._bytes_read = self._bytes_copied = self._reads = 0
        self._busy_seconds = 0.0
        self._threads = [
            threading.Thread(target=self._run, name=f"locum-reader-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @abstractmethod
    def _steps(self, key: int) -> Sequence[Step]:
        """The steps that bring `key`, in the order in which one thread at a time carries them out."""

    @abstractmethod
    def _joins(self, step: Step) -> bool:
        """True when `step` may be carried out while others of its load are under way."""

    @abstractmethod
    def _serve(self, step: Step, slot: memoryview) -> Served:
        """Carry out one step into the slot's memory. Raises `LoadError`."""

    @property
    def counters(self) -> ReadCounters:
        """A snapshot of the counters."""
        with self._lock:
            busy = self._busy_seconds + (time.perf_counter() - self._since if self._active else 0.0)
            return ReadCounters(self._bytes_read, self._bytes_copied, self._reads, busy)

    def start(self, key: int, slot: Slot, priority: Priority, after: Ticket | None = None) -> Ticket:
        """Queue the load of `key` into `slot`."""
        layer, _ = self.layout.index.expert_of(key)
        assert slot.size >= self.layout.slot_bytes(layer), "the slot is too small for this expert"
        assert 0 <= slot.offset <= self._arena.size - slot.size, "the slot is outside the arena"
        assert slot.offset % 4096 == 0, "slots start at multiples of 4096"
        steps = self._steps(key)
        with self._lock:
            if self._closed:
                raise LoadError("an expert was asked for after the model was closed")
            self._orders += 1
            job = Job(key, slot, priority, after, steps=steps, order=self._orders)
            self._live[job] = None
            if after is None:
                self._enqueue(job)
            elif isinstance(after, Job) and after in self._live:
                after.followers.append(job)
            elif not self._settle(job, after):
                self._foreign.append(job)
                self._work.notify()
        return job

    def promote(self, ticket: Ticket, priority: Priority) -> None:
        """Make a ticket more urgent. Does nothing when it already is, or is terminal."""
        assert isinstance(ticket, Job)
        with self._lock:
            if ticket.terminal or ticket.priority <= priority:
                return
            ticket.priority = priority
            if not ticket.waiting:
                self._enqueue(ticket)  # the old entry is skipped when it comes up

    def cancel(self, ticket: Ticket) -> bool:
        """Ask a ticket to stop. True: it is terminal now. False: a block is under way, it will end soon."""
        assert isinstance(ticket, Job)
        with self._lock:
            if ticket.busy:
                ticket.stop = True
            elif not ticket.terminal:
                self._end(ticket, State.CANCELLED, None)
            return ticket.terminal

    def wait_any(self, tickets: Sequence[Ticket]) -> None:
        """Return when at least one of `tickets` is terminal."""
        assert tickets, "waiting for nothing would never end"
        if any(ticket.terminal for ticket in tickets):
            return
        with self._lock:
            while not any(ticket.terminal for ticket in tickets):
                self._ended.wait()

    def advance(self, seconds: float) -> None:
        """Nothing to do: this Mover's clock is the real one."""

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        return time.perf_counter()

    def close(self) -> None:
        """Cancel what waits, let blocks under way finish, stop the threads, release the files. Idempotent."""
        with self._lock:
            self._closed = True
            # what depends comes before what it depends on, so that all end cancelled and none failed
            for job in reversed(list(self._live)):
                job.stop = True
                if not job.busy and not job.terminal:
                    self._end(job, State.CANCELLED, None)
            self._work.notify_all()
        for thread in self._threads:
            thread.join()
        self._files.close()

    def _settle(self, job: "Job[Step]", after: Ticket) -> bool:
        """Queue `job`, or fail it, if `after` has ended. Under the lock; `after` may change meanwhile."""
        state = after.state
        if state == State.DONE:
            self._enqueue(job)
        elif state > State.DONE:
            self._end(job, State.FAILED, _orphaned(after))
        return state >= State.DONE

    def _look_abroad(self) -> None:
        """Settle the loads whose ticket of another Mover has ended since. Under the lock."""
        waiting, self._foreign = self._foreign, []
        for job in waiting:
            if not job.terminal and job.after is not None and not self._settle(job, job.after):
                self._foreign.append(job)

    def _enqueue(self, job: "Job[Step]") -> None:
        job.waiting = False
        heapq.heappush(self._queue, (job.priority, job.order, job))
        self._work.notify()

    def _end(self, job: "Job[Step]", state: State, error: Exception | None) -> None:
        """Publish a terminal state, then settle what waited for it. Under the lock."""
        ending: list[tuple[Job[Step], State, Exception | None]] = [(job, state, error)]
        while ending:
            one, state, error = ending.pop()
            if one.terminal:
                continue
            one.error = error
            one.state = state
            one.steps = ()
            self._live.pop(one, None)
            for follower in one.followers:
                if state == State.DONE and not follower.terminal:
                    self._enqueue(follower)
                elif state != State.DONE:
                    ending.append((follower, State.FAILED, _orphaned(one)))
            one.followers.clear()
        self._ended.notify_all()

    def _take(self) -> "tuple[Job[Step], Step | None] | None":
        """The most urgent job, now RUNNING, and its next step, if it has any. None when the Mover closes."""
        with self._lock:
            while True:
                if self._closed:
                    return None
                if self._foreign:
                    self._look_abroad()
                if not self._queue:
                    self._work.wait(POLL_SECONDS if self._foreign else None)
                    continue
                priority, _, job = self._queue[0]
                step = job.steps[job.taken] if job.taken < len(job.steps) else None
                idle = not (job.terminal or job.stop or job.failure)
                if not idle or priority != job.priority or (job.busy and step is None):
                    heapq.heappop(self._queue)  # ended or all taken, or an entry from before it was promoted
                    continue
                if job.busy and step is not None and not self._joins(step):
                    heapq.heappop(self._queue)
                    job.parked = True  # until what is under way has landed
                    continue
                job.taken += 1
                if job.taken >= len(job.steps):
                    heapq.heappop(self._queue)
                job.busy += 1
                job.state = State.RUNNING
                if not self._active:
                    self._since = time.perf_counter()
                self._active += 1
                if self._foreign or self._queue:
                    self._work.notify()  # somebody else goes on
                return job, step

    def _landed(self, job: "Job[Step]", served: Served | None) -> bool:
        """Count a step that went well. True when it was the last, and the caller has to check the expert
        before it puts the job back.
        """
        with self._lock:
            if served is not None:
                self._bytes_read += served.bytes_read
                self._bytes_copied += served.bytes_copied
                self._reads += served.reads
            job.done += 1
            last = job.done >= len(job.steps) and not (job.stop or job.failure)
            return last and self._checks.wanted(job.key)

    def _put_back(self, job: "Job[Step]", error: Exception | None) -> None:
        with self._lock:
            self._active -= 1
            if not self._active:
                self._busy_seconds += time.perf_counter() - self._since
            job.busy -= 1
            job.failure = job.failure or error
            if job.busy:
                return  # the last one to put it back settles it
            if job.stop:
                self._end(job, State.CANCELLED, None)
            elif job.failure is not None:
                self._end(job, State.FAILED, job.failure)
            elif job.done >= len(job.steps):
                self._end(job, State.DONE, None)
            elif job.parked:
                job.parked = False
                self._enqueue(job)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            job, step = taken
            failure: Exception | None = None
            try:
                begin = job.slot.offset
                slot = self._arena.memory[begin : begin + job.slot.size]
                served = self._serve(step, slot) if step is not None else None
                if self._landed(job, served):
                    self._checks.check(job.key, slot)
            except LocumError as error:
                failure = error
            except Exception as error:  # a bug must end as a failed load, never as a hang
                failure = LoadError(
                    "expert weights could not be read", got=f"{type(error).__name__}: {error}"
                )
                failure.__cause__ = error
            self._put_back(job, failure)


def _orphaned(before: Ticket) -> LoadError:
    return LoadError("an expert's load was built on one that did not finish", got=before.error or "cancelled")

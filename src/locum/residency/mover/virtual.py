"""Virtual time: a Mover for the simulator and for tests, and the clock that several of them can share."""

import random
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from locum.errors import LoadError
from locum.residency.mover.base import Mover, Priority, Slot, State, Ticket

Write = Callable[[Ticket, bool], None]
"""Stands for the bytes: called as each block of a ticket lands; True with the last one."""


class _Load(Ticket):
    """A ticket with what is left of it."""

    __slots__ = ("busy", "left", "order", "stop")

    def __init__(
        self, key: int, slot: Slot, priority: Priority, after: Ticket | None, *, order: int, blocks: int
    ) -> None:
        super().__init__(key, slot, priority, after)
        self.order, self.left = order, blocks
        self.busy = self.stop = False


class VirtualClock:
    """Seconds that pass only when somebody waits or computes. Tiers of one machine share one clock."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._events: list[tuple[float, int, VirtualMover, _Load]] = []
        self._movers: list[VirtualMover] = []
        self._count = 0

    def join(self, mover: "VirtualMover") -> None:
        """From now on `mover` hears of every event."""
        self._movers.append(mover)

    def schedule(self, seconds: float, mover: "VirtualMover", load: _Load) -> None:
        """A block of `load` will land `seconds` from now."""
        self._count += 1
        heappush(self._events, (self.seconds + seconds, self._count, mover, load))

    def step(self) -> bool:
        """Go on to the next event. False when there is none."""
        if not self._events:
            return False
        self.seconds, _, mover, load = heappop(self._events)
        mover.land(load)
        for other in self._movers:
            other.serve()
        return True

    def run_until(self, seconds: float) -> None:
        """Let everything happen that happens by then; never goes back."""
        while self._events and self._events[0][0] <= seconds:
            self.step()
        self.seconds = max(self.seconds, seconds)

    @property
    def next_event(self) -> float | None:
        """When the next block lands, or None."""
        return self._events[0][0] if self._events else None


class VirtualMover(Mover):
    """`channels` blocks are under way at a time, each for `seconds_per_block` x (1 + jitter x uniform(0, 1)).

    `seconds_per_block` may be a function of the key.
    `blocks_of(key)`: blocks per load (default 1). `seed` fixes the jitter. `write` stands for the bytes.
    Movers with one `clock` share their time, so that `after` may name a ticket of another tier.
    """

    def __init__(
        self,
        seconds_per_block: float | Callable[[int], float] = 1e-3,
        *,
        channels: int = 1,
        blocks_of: Callable[[int], int] | None = None,
        jitter: float = 0.0,
        seed: int = 0,
        clock: VirtualClock | None = None,
        write: Write | None = None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self._seconds_of = seconds_per_block if callable(seconds_per_block) else lambda _: seconds_per_block
        self._channels, self._jitter = channels, jitter
        self._blocks_of, self._write = blocks_of, write
        self._rng = random.Random(seed)  # noqa: S311 - jitter, not secrets
        self._queue: list[tuple[int, int, _Load]] = []
        self._blocked: list[_Load] = []
        self._busy = 0
        self._count = 0
        self.clock.join(self)

    def start(self, key: int, slot: Slot, priority: Priority, after: Ticket | None = None) -> Ticket:
        """See `Mover.start`."""
        self._count += 1
        blocks = self._blocks_of(key) if self._blocks_of is not None else 1
        load = _Load(key, slot, priority, after, order=self._count, blocks=blocks)
        self._blocked.append(load) if after is not None else self._enqueue(load)
        self.serve()
        return load

    def promote(self, ticket: Ticket, priority: Priority) -> None:
        """See `Mover.promote`."""
        assert isinstance(ticket, _Load)
        if priority < ticket.priority and not ticket.terminal:
            ticket.priority = priority
            if not ticket.busy and ticket not in self._blocked:
                self._enqueue(ticket)

    def cancel(self, ticket: Ticket) -> bool:
        """See `Mover.cancel`."""
        assert isinstance(ticket, _Load)
        if ticket.busy:
            ticket.stop = True
        elif not ticket.terminal:
            ticket.state = State.CANCELLED
        return ticket.terminal

    def wait_any(self, tickets: Sequence[Ticket]) -> None:
        """See `Mover.wait_any`. Asserts that the wait can end."""
        while not any(ticket.terminal for ticket in tickets):
            moved = self.clock.step()
            assert moved, "nothing under way can end this wait"

    def advance(self, seconds: float) -> None:
        """See `Mover.advance`."""
        self.clock.run_until(self.clock.seconds + seconds)

    def now(self) -> float:
        """See `Mover.now`."""
        return self.clock.seconds

    def close(self) -> None:
        """See `Mover.close`: what is queued is cancelled, what is under way stops at its block's end."""
        for load in [*self._blocked, *(load for _, _, load in self._queue)]:
            self.cancel(load)
        self._blocked.clear()
        self._queue.clear()

    # the clock's side

    def _enqueue(self, load: _Load) -> None:
        heappush(self._queue, (load.priority, load.order, load))

    def serve(self) -> None:
        """Give free channels to the most urgent blocks."""
        if self._blocked:
            self._unblock()
        while self._busy < self._channels and self._queue:
            priority, _, load = heappop(self._queue)
            if load.terminal or load.busy or priority != load.priority:
                continue  # an entry left behind by `cancel` or `promote`
            load.state, load.busy = State.RUNNING, True
            self._busy += 1
            seconds = self._seconds_of(load.key) * (1 + self._jitter * self._rng.random())
            self.clock.schedule(seconds, self, load)

    def _unblock(self) -> None:
        """Queue the loads whose `after` is there; fail those whose `after` never will be."""
        blocked, self._blocked = self._blocked, []
        for load in blocked:
            if load.terminal:
                continue
            assert load.after is not None
            if not load.after.terminal:
                self._blocked.append(load)
            elif load.after.failed:
                load.error = LoadError("the tier below failed", where=f"key {load.key}", got=load.after.error)
                load.state = State.FAILED
            else:
                self._enqueue(load)

    def land(self, load: _Load) -> None:
        """A block of `load` has landed."""
        self._busy -= 1
        load.busy = False
        load.left -= 1
        if self._write is not None:
            self._write(load, load.left <= 0 and not load.stop)
        if load.stop:
            load.state = State.CANCELLED
        elif load.left > 0:
            self._enqueue(load)
        else:
            load.state = State.DONE

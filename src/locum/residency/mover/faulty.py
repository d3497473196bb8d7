"""A Mover that fails and dawdles on purpose, for tests and drills."""

import random

from locum.errors import UsageError
from locum.residency.mover.base import Mover, Priority, Slot, State, Ticket
from locum.residency.mover.wrap import WrappedTicket, Wrapper


class _Fate(WrappedTicket):
    """What will become of one load, fixed when it starts."""

    __slots__ = ("delay", "doomed", "due")

    def __init__(self, owner: Wrapper, inner: Ticket, doomed: bool, delay: float) -> None:
        self.doomed, self.delay = doomed, delay
        self.due: float | None = None
        super().__init__(owner, inner)


class FaultyMover(Wrapper):
    """Wraps `inner`: a share `failures` of the loads fails at its end, a share `delays` lands `delay_s` late.

    Which ones depends on `seed` and on the order of starts. Raises `UsageError` for shares outside 0..1.
    """

    def __init__(
        self,
        inner: Mover,
        *,
        failures: float = 0.0,
        delays: float = 0.0,
        delay_s: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        for name, share in (("failures", failures), ("delays", delays)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} is a share", allowed="0 to 1", got=share)
        self._failures, self._delays, self._delay_s = failures, delays, delay_s
        self._rng = random.Random(seed)  # noqa: S311 - faults, not secrets

    def start(self, key: int, slot: Slot, priority: Priority, after: Ticket | None = None) -> Ticket:
        """See `Mover.start`."""
        doomed = self._rng.random() < self._failures
        delay = self._delay_s if self._rng.random() < self._delays else 0.0
        return _Fate(self, self.inner.start(key, slot, priority, after), doomed, delay)

    def verdict(self, ticket: WrappedTicket) -> State:
        """See `Wrapper.verdict`."""
        assert isinstance(ticket, _Fate)
        state = ticket.inner.state
        if state < State.DONE:
            return state
        if self.remaining(ticket) > 0:
            return State.RUNNING
        if state is State.DONE and ticket.doomed:
            ticket.error = OSError(f"a fault was injected into the load of key {ticket.key}")
            return State.FAILED
        ticket.error = ticket.inner.error
        return state

    def remaining(self, ticket: WrappedTicket) -> float:
        """See `Wrapper.remaining`."""
        assert isinstance(ticket, _Fate)
        if ticket.due is None:
            ticket.due = self.now() + ticket.delay
        return ticket.due - self.now()

"""What wrapping Movers share: tickets of their own, each in front of the wrapped Mover's."""

import time
from abc import abstractmethod
from collections.abc import Sequence

from locum.residency.mover.base import Mover, Priority, Slot, State, Ticket


class WrappedTicket(Ticket):
    """Shows the state that its wrapper's `verdict` gives."""

    __slots__ = ("inner", "owner", "settled")

    def __init__(self, owner: "Wrapper", inner: Ticket) -> None:
        self.owner, self.inner = owner, inner
        self.settled: State | None = None
        super().__init__(inner.key, inner.slot, inner.priority, inner.after)

    @property
    def state(self) -> State:
        """The state as the wrapper shows it; a terminal one stays."""
        if self.settled is None:
            shown = self.owner.verdict(self)
            if shown < State.DONE:
                return shown
            self.settled = shown
        return self.settled

    @state.setter
    def state(self, state: State) -> None:
        """The base class sets QUEUED, which says nothing here."""


class Wrapper(Mover):
    """A Mover in front of another. Subclasses say what it shows (`verdict`), and how long (`remaining`)."""

    def __init__(self, inner: Mover) -> None:
        self.inner = inner

    @abstractmethod
    def verdict(self, ticket: WrappedTicket) -> State:
        """The state to show now. May set `ticket.error`."""

    @abstractmethod
    def remaining(self, ticket: WrappedTicket) -> float:
        """For a ticket that is terminal inside but not outside: seconds until that may change."""

    def start(self, key: int, slot: Slot, priority: Priority, after: Ticket | None = None) -> Ticket:
        """See `Mover.start`."""
        return WrappedTicket(self, self.inner.start(key, slot, priority, after))

    def promote(self, ticket: Ticket, priority: Priority) -> None:
        """See `Mover.promote`."""
        assert isinstance(ticket, WrappedTicket)
        if priority < ticket.priority and not ticket.terminal:
            ticket.priority = priority
            self.inner.promote(ticket.inner, priority)

    def cancel(self, ticket: Ticket) -> bool:
        """See `Mover.cancel`."""
        assert isinstance(ticket, WrappedTicket)
        if not ticket.terminal and self.inner.cancel(ticket.inner):
            ticket.settled = State.CANCELLED
        return ticket.terminal

    def wait_any(self, tickets: Sequence[Ticket]) -> None:
        """See `Mover.wait_any`."""
        while not any(ticket.terminal for ticket in tickets):
            ours = [ticket for ticket in tickets if isinstance(ticket, WrappedTicket)]
            held = [self.remaining(ticket) for ticket in ours if ticket.inner.terminal]
            if held:
                self._pass(max(0.0, min(held)))
            else:
                self.inner.wait_any([ticket.inner for ticket in ours])

    def _pass(self, seconds: float) -> None:
        """Let `seconds` go by on the inner Mover's clock, virtual or real."""
        end = self.inner.now() + seconds
        self.inner.advance(seconds)
        while (left := end - self.inner.now()) > 0:
            time.sleep(left)

    def advance(self, seconds: float) -> None:
        """See `Mover.advance`."""
        self.inner.advance(seconds)

    def now(self) -> float:
        """See `Mover.now`."""
        return self.inner.now()

    def close(self) -> None:
        """See `Mover.close`."""
        self.inner.close()

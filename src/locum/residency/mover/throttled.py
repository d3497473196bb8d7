"""A Mover no faster than a given device, in the inner Mover's time: for measurements and tests."""

from collections.abc import Callable, Sequence

from locum.errors import UsageError
from locum.residency.mover.base import Mover, Priority, Slot, State, Ticket
from locum.residency.mover.virtual import VirtualMover
from locum.residency.mover.wrap import WrappedTicket, Wrapper

BLOCK = 1 << 20
"""The most bytes that the modelled device reads before it looks for something more urgent."""


def modelled(bytes_per_second: float, channels: int, bytes_of: Callable[[int], int]) -> VirtualMover:
    """A device that serves `channels` blocks at a time at `bytes_per_second` in all, in virtual time.

    A load of `bytes_of(key)` bytes is cut into equal blocks of at most `BLOCK`. Raises `UsageError`.
    """
    if bytes_per_second <= 0 or channels < 1:
        raise UsageError(
            "a device needs a rate and a channel", got=f"{bytes_per_second} B/s, {channels} channels"
        )

    def blocks_of(key: int) -> int:
        return max(1, -(-bytes_of(key) // BLOCK))

    def seconds_of(key: int) -> float:
        return bytes_of(key) / blocks_of(key) * channels / bytes_per_second

    return VirtualMover(seconds_of, channels=channels, blocks_of=blocks_of)


class _Gated(WrappedTicket):
    """A load, and its twin on the modelled device."""

    __slots__ = ("twin",)

    def __init__(self, owner: Wrapper, inner: Ticket, twin: Ticket) -> None:
        self.twin = twin
        super().__init__(owner, inner)


class ThrottledMover(Wrapper):
    """Wraps `inner`: a load lands when it has landed there and would have landed on the modelled device.

    That device serves `channels` blocks at a time at `bytes_per_second` in all, in (priority, start order).
    `bytes_of(key)`: stored bytes. The inner Mover may read earlier; nobody sees the bytes earlier. One thread
    calls it, so an `after` ticket of it may be given only to a Mover that looks at it from that thread.
    """

    def __init__(
        self, inner: Mover, bytes_of: Callable[[int], int], bytes_per_second: float, *, channels: int = 1
    ) -> None:
        super().__init__(inner)
        self._device = modelled(bytes_per_second, channels, bytes_of)

    def _catch_up(self) -> None:
        self._device.clock.run_until(self.inner.now())
        self._device.serve()

    def start(self, key: int, slot: Slot, priority: Priority, after: Ticket | None = None) -> Ticket:
        """See `Mover.start`."""
        self._catch_up()
        twin = self._device.start(key, slot, priority, after)
        return _Gated(self, self.inner.start(key, slot, priority, after), twin)

    def promote(self, ticket: Ticket, priority: Priority) -> None:
        """See `Mover.promote`."""
        assert isinstance(ticket, _Gated)
        self._catch_up()
        self._device.promote(ticket.twin, priority)
        super().promote(ticket, priority)

    def cancel(self, ticket: Ticket) -> bool:
        """See `Mover.cancel`."""
        assert isinstance(ticket, _Gated)
        self._catch_up()
        self._device.cancel(ticket.twin)
        return super().cancel(ticket)

    def verdict(self, ticket: WrappedTicket) -> State:
        """See `Wrapper.verdict`."""
        assert isinstance(ticket, _Gated)
        self._catch_up()
        inner, twin = ticket.inner.state, ticket.twin.state
        if inner > State.DONE:
            ticket.error = ticket.inner.error
            self._device.cancel(ticket.twin)
            return inner
        if (
            inner is State.DONE and twin > State.DONE
        ):  # a cancel came too late inside, or the tier below failed
            return State.CANCELLED
        return State.RUNNING if inner is State.DONE and twin is not State.DONE else inner

    def remaining(self, ticket: WrappedTicket) -> float:
        """See `Wrapper.remaining`."""
        soon = self._device.clock.next_event
        assert soon is not None, "the modelled device has nothing left to do"
        return soon - self.inner.now()

    def wait_any(self, tickets: Sequence[Ticket]) -> None:
        """See `Mover.wait_any`."""
        self._catch_up()
        super().wait_any(tickets)

    def close(self) -> None:
        """See `Mover.close`."""
        self._device.close()
        super().close()

"""What the Residency keeps per slot."""

from locum.residency.mover.base import Ticket
from locum.residency.sizeclass import Place


class Entry(Place):
    """An expert that has a slot: owned by the Ledger, in use by leases, or both."""

    __slots__ = ("key", "owned", "ticket", "uses")

    def __init__(self, key: int, owned: bool) -> None:
        super().__init__()
        self.key, self.owned = key, owned
        self.ticket: Ticket | None = None
        """Of the load under way; None once landed."""
        self.uses = 0
        """Open leases that have yet to finish with it."""

    @property
    def movable(self) -> bool:
        """True when nobody reads or writes the slot now."""
        return not self.uses and self.ticket is None

    @property
    def stuck(self) -> bool:
        """True for a failed load that some lease has yet to try again: waiting for it is no use."""
        return self.uses > 0 and self.ticket is not None and self.ticket.failed

"""The Mover: carries bytes into arena slots, on its own time.

Contract, for the virtual, throttled and faulty movers here and for the real ones in `store/`:

* `start` queues one load and returns its `Ticket` at once. Until the ticket is terminal the slot is the
  Mover's to write; afterwards the Mover never touches it again.
* States go QUEUED -> RUNNING -> DONE | FAILED | CANCELLED, or QUEUED -> CANCELLED, and are published after
  the bytes: whoever sees DONE sees the bytes. A FAILED ticket carries `error`.
* Service is block by block in (priority, start order); between two blocks a more urgent ticket overtakes.
* `after`: the load may begin only when that ticket is DONE; if it fails or is cancelled, this one fails.
* Movers never call back, never retry, never decide. One thread (the program's) calls them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class State(IntEnum):
    """The life of a ticket. Everything from DONE on is terminal."""

    QUEUED = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3
    CANCELLED = 4


class Priority(IntEnum):
    """Who goes first. Smaller is more urgent."""

    DEMAND = 0
    NEXT = 1
    SPECULATIVE = 2


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the arena: `offset` and `size` in bytes, both multiples of 4096."""

    offset: int
    size: int


class Ticket:
    """One load under way: `key` into `slot`."""

    __slots__ = ("after", "error", "key", "priority", "slot", "state")

    def __init__(self, key: int, slot: Slot, priority: Priority, after: "Ticket | None" = None) -> None:
        self.key, self.slot, self.priority, self.after = key, slot, priority, after
        self.state = State.QUEUED
        self.error: Exception | None = None

    @property
    def terminal(self) -> bool:
        """True once the Mover will never write to the slot again."""
        return self.state >= State.DONE

    @property
    def failed(self) -> bool:
        """True when it ended without the bytes: FAILED or CANCELLED."""
        return self.state > State.DONE


class Mover(ABC):
    """See the module's docstring for the contract."""

    @abstractmethod
    def start(self, key: int, slot: Slot, priority: Priority, after: Ticket | None = None) -> Ticket:
        """Queue the load of `key` into `slot`."""

    @abstractmethod
    def promote(self, ticket: Ticket, priority: Priority) -> None:
        """Make a ticket more urgent. Does nothing when it already is, or is terminal."""

    @abstractmethod
    def cancel(self, ticket: Ticket) -> bool:
        """Ask a ticket to stop. True: it is terminal now. False: a block is under way, it will end soon."""

    @abstractmethod
    def wait_any(self, tickets: Sequence[Ticket]) -> None:
        """Return when at least one of `tickets` is terminal."""

    @abstractmethod
    def advance(self, seconds: float) -> None:
        """Computing took `seconds`. Virtual movers move their clock; real ones do nothing."""

    @abstractmethod
    def now(self) -> float:
        """Seconds on this Mover's clock."""

    @abstractmethod
    def close(self) -> None:
        """Stop every thread and release every file. Idempotent."""

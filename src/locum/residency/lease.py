"""The lease: experts of one acquire, one after the other, each with its slot."""

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from locum.errors import LoadError
from locum.residency.decision import Decision
from locum.residency.entry import Entry
from locum.residency.mover.base import Priority, Slot

if TYPE_CHECKING:
    from locum.residency.residency import Residency


class Lease:
    """`with residency.acquire(layer, ids) as lease: for key, slot in lease: ...`

    Yields what is there first, then the rest in order of arrival; each of `ids` once. A slot is the
    caller's until the next one is taken or the lease closes. Iterating raises `LoadError` when an expert
    cannot be read and `BudgetError` when other open leases hold every slot.

    Closing early is no fault: reads under way for what is kept go on, the rest stops, and what was never
    started is loaded when next asked for.
    """

    __slots__ = (
        "_closed",
        "_hand",
        "_ids",
        "_ready",
        "_residency",
        "_todo",
        "_tries",
        "_waiting",
        "decision",
    )

    def __init__(self, residency: "Residency", ids: Sequence[int], decision: Decision) -> None:
        self.decision = decision
        """What the Ledger decided."""
        self._residency, self._ids = residency, list(ids)
        self._ready: deque[Entry] = deque()
        self._waiting: list[Entry] = []
        self._todo: deque[int] = deque()
        self._tries: dict[int, int] = {}
        self._hand: Entry | None = None
        self._closed = False
        entries = residency.entries
        for key in ids:
            entry = entries.get(key)
            if entry is None:
                self._todo.append(key)
                continue
            entry.uses += 1
            if entry.ticket is None or residency.landed(entry):
                self._ready.append(entry)
            else:
                self._waiting.append(entry)
        residency.ledger.pin(self._ids)
        residency.leases.append(self)
        if len(self._ready) < len(ids) or decision.staged or decision.misses:
            self._open_slowly()

    def _open_slowly(self) -> None:
        """The slow half of opening: something has not landed, or changes its owner."""
        residency, decision = self._residency, self.decision
        for entry in (*self._ready, *self._waiting):
            entry.owned = residency.ledger.owns(entry.key)
        for entry in self._waiting:
            if entry.ticket is not None and entry.ticket.priority is not Priority.DEMAND:
                residency.mover.promote(entry.ticket, Priority.DEMAND)
        landed = {entry.key for entry in self._ready}
        residency.physical.ready += len(landed.intersection(decision.staged))
        expected = (*decision.hits, *decision.staged)
        residency.physical.late += sum(key not in landed for key in expected)

    @property
    def hungry(self) -> bool:
        """True while loads of this lease wait for a slot."""
        return bool(self._todo)

    def wants(self, key: int) -> bool:
        """True while the load of `key` waits for a slot."""
        return key in self._todo

    @property
    def held(self) -> list[Entry]:
        """What this lease has yet to finish with."""
        hand = [self._hand] if self._hand is not None else []
        return [*hand, *self._ready, *self._waiting]

    def start(self) -> None:
        """Start loads, in id order, for as many as there are slots."""
        residency, todo = self._residency, self._todo
        while todo:
            entry = residency.entries.get(todo[0]) or residency.load(todo[0], Priority.DEMAND)
            if entry is None:
                return
            todo.popleft()
            entry.uses += 1
            self._waiting.append(entry)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Slot]:
        if self._hand is not None:
            self._finish()
        if self._todo:
            self.start()
        if not self._ready:
            if not self._waiting and not self._todo:
                raise StopIteration
            self._await()
        entry = self._hand = self._ready.popleft()
        return entry.key, entry.slot

    def _finish(self) -> None:
        """The caller has done with the slot in hand."""
        entry, self._hand = self._hand, None
        assert entry is not None
        if entry.owned and not self._residency.arena.unsettled:
            entry.uses -= 1
        else:
            self._residency.release(entry)

    def _await(self) -> None:
        """Stall until something of this lease is there."""
        residency = self._residency
        while True:
            self._collect()
            if self._ready:
                return
            if self._todo:
                self.start()
            tickets = [entry.ticket for entry in self._waiting if entry.ticket is not None]
            if len(tickets) == len(self._waiting):
                residency.wait(tickets, for_room=bool(self._todo))

    def _collect(self) -> None:
        """Move what has landed to `_ready`; try again what has failed. Raises `LoadError`."""
        residency, waiting = self._residency, self._waiting
        self._waiting = []
        for place, entry in enumerate(waiting):
            if residency.landed(entry):
                self._ready.append(entry)
                continue
            ticket = entry.ticket
            if ticket is not None and ticket.failed and not self._again(entry):
                self._waiting += waiting[place + 1 :]
                self._give_up(entry)
            self._waiting.append(entry)

    def _again(self, entry: Entry) -> bool:
        """Start a failed load once more. False: it was tried often enough."""
        tries = self._tries[entry.key] = self._tries.get(entry.key, 0) + 1
        if tries > self._residency.retries:
            return False
        self._residency.physical.retries += 1
        self._residency.begin(entry, Priority.DEMAND)
        return True

    def _give_up(self, entry: Entry) -> None:
        residency, ticket = self._residency, entry.ticket
        cause = ticket.error if ticket is not None else None
        residency.forget(entry)
        if isinstance(cause, LoadError):
            raise cause  # says where, and what to do: no words around it
        raise LoadError(
            "an expert could not be read",
            where=residency.keys.describe(entry.key),
            got=cause or "a cancelled read",
            todo="Check the disk and the checkpoint's files",
        ) from cause

    def close(self) -> None:
        """End the lease: see the class. Idempotent."""
        if self._closed:
            return
        self._closed = True
        residency = self._residency
        if self._hand is not None:
            self._finish()
        if self._ready or self._waiting or self._todo:
            left = [*self._ready, *self._waiting]
            self._ready.clear()
            self._waiting = []
            self._todo.clear()
            for entry in left:
                residency.release(entry)
        residency.ledger.unpin(self._ids)
        residency.leases.remove(self)
        residency.rest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

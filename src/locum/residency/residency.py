"""The Residency: carries out what the Ledger decides, with slots, tickets and leases.

Which slot an expert gets and when it lands may depend on timing; nothing here ever feeds back into the
Ledger. A failed read or an abandoned lease changes no decision: an owned expert that is not there is loaded
when next asked for. One thread, the program's, calls everything.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from locum.errors import BudgetError
from locum.policy.base import Info
from locum.residency.decision import Decision, Log
from locum.residency.entry import Entry
from locum.residency.keys import KeySpace
from locum.residency.lease import Lease
from locum.residency.ledger import Ledger
from locum.residency.mover.base import Mover, Priority, State, Ticket
from locum.residency.slots import PAGE, ArenaSlots, minimum_bytes

Source = Callable[[int], Ticket | None]
"""The tier below: the ticket a load of this key must wait for, or None when the key is there already."""


@dataclass(slots=True)
class Physical:
    """What timing did, since the start. None of it influences a decision."""

    late: int = 0
    """Hits and staged experts that had not landed when asked for."""
    ready: int = 0
    """Staged experts that had landed when asked for."""
    retries: int = 0
    started: int = 0
    """Loads begun, retries among them."""
    bytes_read: int = 0
    """Stored bytes of the loads that landed."""
    stall_s: float = 0.0
    """Seconds inside `wait_any`, by the Mover's clock."""


def arena_bytes(
    keys: KeySpace,
    capacities: Iterable[int],
    speculation: int = 0,
    *,
    in_flight: int = 1,
    page: int = PAGE,
) -> int:
    """The smallest arena, in bytes, for these capacities and this speculation pool (bytes).

    Beside what the Ledger keeps there is always room for `in_flight` (at least 1) demand slots of the largest
    size: an expert that is not kept, even one larger than its group's capacity, streams through there.
    """
    slots = sum(capacities) + speculation + max(1, in_flight) * keys.largest
    return minimum_bytes(slots, keys.classes, page)


class Residency:
    """`ledger` decides, `mover` carries, `arena` has the places (its classes are `ledger.keys.classes`).

    `retries`: how often a failed load is tried again. `log`: a list to append the Ledger's events to,
    or a function that hears them, see `Ledger.log`.
    `source`: the tier below, see `Source`. The Mover stays the caller's to close.
    Raises `BudgetError` when the arena is smaller than `arena_bytes` of the Ledger's capacities.
    """

    def __init__(
        self,
        ledger: Ledger,
        mover: Mover,
        arena: ArenaSlots,
        *,
        retries: int = 3,
        log: Log | None = None,
        source: Source | None = None,
    ) -> None:
        self.ledger, self.mover, self.arena, self.retries = ledger, mover, arena, retries
        self.keys = ledger.keys
        self.physical = Physical()
        self.entries: dict[int, Entry] = {}
        """Everything with a slot that is owned or in use, by key."""
        self.draining: list[Entry] = []
        """Cancelled loads whose Mover has not let go of the slot yet."""
        self.leases: list[Lease] = []
        """Open leases, oldest first."""
        if log is not None:
            ledger.log = log.append if isinstance(log, list) else log
        self._source = source
        self._loading: dict[int, Entry] = {}
        self._unstarted: dict[int, None] = {}
        least = self._least(ledger.capacities, ledger.speculation)
        assert arena.sizes == self.keys.classes, "the arena was made for other sizes"
        if arena.budget * arena.page < least:
            raise BudgetError(
                "the arena is too small for its cache", minimum=least, got=arena.budget * arena.page
            )
        self._spare_bytes = arena.budget * arena.page - least

    def _least(self, capacities: Iterable[int], speculation: int) -> int:
        return arena_bytes(self.keys, capacities, speculation, page=self.arena.page)

    # events

    def request(self, request: int, begin: bool) -> None:
        """See `Ledger.request`."""
        self.ledger.request(request, begin)

    def step(self, number: int, phase: int, tokens: int) -> None:
        """See `Ledger.step`."""
        self.ledger.step(number, phase, tokens)

    def forecast(self, ahead: int, layer: int, ids: Sequence[int], confidence: Sequence[float]) -> None:
        """See `Ledger.forecast`."""
        self.ledger.forecast(ahead, layer, ids, confidence)

    def acquire(self, layer: int, ids: Sequence[int], info: Info | None = None) -> Lease:
        """A lease on `ids`, unique, ascending keys of `layer`; loads start at once. Raises `PolicyError`."""
        lease = self.decide(layer, ids, info)
        lease.start()
        return lease

    def decide(self, layer: int, ids: Sequence[int], info: Info | None = None) -> Lease:
        """`acquire` without starting loads: the lease's `start` does that, or its first iteration.

        For several tiers: decide here, acquire what is missed from the tier below, then start.
        """
        decision = self.ledger.acquire(layer, ids, info)
        lease = Lease(self, ids, decision)
        if decision.evicted or decision.cancelled:
            self._disown(decision)
        for key in decision.staged:
            self._unstarted.pop(key, None)
        return lease

    def want(self, wants: Iterable[tuple[int, int]], priority: Priority = Priority.NEXT) -> None:
        """Speculate on (key, due tick), best first. Reads start once no demand waits for slots."""
        placed = self.ledger.want(wants)
        for key in placed:
            entry = self.entries.get(key)
            if entry is None:
                self._unstarted[key] = None
            else:
                entry.owned = True
        if self._unstarted:
            self.speculate(priority)

    def set_budget(self, group: int, capacity: int) -> Decision:
        """`group` may keep `capacity` bytes from now on; the arena grows or shrinks by as much.

        Slots in use or being written go as soon as they come to rest. Raises `UsageError` when the arena's
        reserved range is too small to grow so far; then nothing has changed.
        """
        capacities = list(self.ledger.capacities)
        grows = capacity > capacities[group]
        capacities[group] = capacity
        budget = self._least(capacities, self.ledger.speculation) + self._spare_bytes
        if grows:
            self.arena.set_budget(budget)
        decision = self.ledger.set_budget(group, capacity)
        self._disown(decision)
        if not grows:
            self.arena.set_budget(budget)
        return decision

    def set_speculation(self, capacity: int) -> Decision:
        """The speculation pool may hold `capacity` bytes from now on; else as `set_budget`."""
        grows = capacity > self.ledger.speculation
        budget = self._least(self.ledger.capacities, capacity) + self._spare_bytes
        if grows:
            self.arena.set_budget(budget)
        decision = self.ledger.set_speculation(capacity)
        self._disown(decision)
        if not grows:
            self.arena.set_budget(budget)
        return decision

    def discard(self, ids: Sequence[int]) -> Decision:
        """Nobody will ask for `ids` again: see `Ledger.discard`."""
        decision = self.ledger.discard(ids)
        self._disown(decision)
        return decision

    def adopt(self) -> None:
        """What the Ledger owns is there from the start: in virtual time, once the Ledger was restored."""
        assert not self.entries, "something is there already"
        for key in (*(key for n in range(self.keys.group_count) for key in sorted(self.ledger.cached(n))),
                    *self.ledger.staged):  # fmt: skip
            entry = Entry(key, True)
            placed = self.arena.put(entry, self.keys.class_of[key])
            assert placed, "what the Ledger keeps has room in the arena"
            self.entries[key] = entry

    def close(self) -> None:
        """Close open leases, stop every load, wait until the Mover has let go of every slot. Idempotent.

        To be called before the Mover is closed.
        """
        for lease in list(self.leases):
            lease.close()
        self._unstarted.clear()
        for entry in list(self.entries.values()):
            self._drop(entry)
        while self.draining:
            self.mover.wait_any([entry.ticket for entry in self.draining if entry.ticket is not None])
            self._reap()

    # the tier above

    def ensure(self, key: int) -> Ticket | None:
        """The ticket of the load that brings `key`, started now if need be; None when it has landed.

        To be handed to the tier above as its `source`. `key` must be in an open lease here, and the lease
        must stay open until the tier above has finished copying: that keeps the slot where it is. Waits while
        there is no slot for it. Raises `BudgetError` when open leases hold every slot.
        """
        while (entry := self.entries.get(key)) is None:
            for lease in self.leases:
                lease.start()
            if key not in self.entries:
                assert any(lease.wants(key) for lease in self.leases), "the tier above asks outside a lease"
                self.wait([], for_room=True)
        if self.landed(entry):
            return None
        if entry.ticket is not None and entry.ticket.failed:
            self.begin(entry, Priority.DEMAND)
        return entry.ticket

    # what leases use

    def load(self, key: int, priority: Priority) -> Entry | None:
        """Give `key` a slot and start its load. None: there is no room before something comes to rest."""
        entry = Entry(key, self.ledger.owns(key))
        number = self.keys.class_of[key]
        if not self.arena.put(entry, number) and not (self._reap() and self.arena.put(entry, number)):
            return None
        self.entries[key] = entry
        self._unstarted.pop(key, None)
        try:
            self.begin(entry, priority)
        except BaseException:
            self._drop(entry)
            raise
        return entry

    def begin(self, entry: Entry, priority: Priority) -> None:
        """Start (again) the load of an entry into its slot."""
        after = self._source(entry.key) if self._source is not None else None
        self.physical.started += 1
        entry.ticket = self.mover.start(entry.key, entry.slot, priority, after)
        self._loading[entry.key] = entry

    def landed(self, entry: Entry) -> bool:
        """True when the bytes of `entry` are there."""
        ticket = entry.ticket
        if ticket is None:
            return True
        if ticket.state is not State.DONE:
            return False
        entry.ticket = None
        del self._loading[entry.key]
        self.physical.bytes_read += self.keys.stored[entry.key]
        return True

    def forget(self, entry: Entry) -> None:
        """A lease gives up on a load that keeps failing: it is tried again when next asked for."""
        entry.uses -= 1
        if not entry.uses:
            self._drop(entry)

    def rest(self) -> None:
        """A lease has closed: give back what can be, start what had to wait."""
        if self.draining or self.arena.unsettled:
            self._reap()
        if self._unstarted:
            self.speculate()

    def release(self, entry: Entry) -> None:
        """A lease has finished with `entry`: drop it if nobody owns or uses it now."""
        entry.uses -= 1
        if not entry.uses:
            if not entry.owned:
                self._drop(entry)
            elif self.arena.unsettled:
                self.arena.settle()

    def speculate(self, priority: Priority = Priority.SPECULATIVE) -> None:
        """Start the speculative reads that have a place but no slot yet, unless demand waits for slots."""
        if any(lease.hungry for lease in self.leases):
            return
        for key in list(self._unstarted):
            if self.load(key, priority) is None:
                return

    def wait(self, tickets: list[Ticket], *, for_room: bool) -> None:
        """Stall until one of `tickets` is terminal, or, `for_room`, until anything comes to rest.

        Raises `BudgetError` when nothing is under way that could help: open leases hold every slot.
        """
        if for_room:
            if self._reap():
                return
            drains = [entry.ticket for entry in self.draining if entry.ticket is not None]
            loads = [e.ticket for e in self._loading.values() if e.ticket is not None and not e.stuck]
            tickets = [*tickets, *drains, *loads]
        if not tickets:
            least = self._least(self.ledger.capacities, self.ledger.speculation) + self.keys.largest
            raise BudgetError(
                "open leases hold every slot", minimum=least, todo="Finish one lease before the next"
            )
        before = self.mover.now()
        self.mover.wait_any(tickets)
        self.physical.stall_s += self.mover.now() - before

    def _reap(self) -> bool:
        """Take back the slots of drained and of failed loads, let landed ones rest. True if anything did."""
        rested = False
        draining, self.draining = self.draining, []
        for entry in draining:
            if entry.ticket is not None and entry.ticket.terminal:
                self._count(entry.ticket)
                self.arena.free(entry)
                rested = True
            else:
                self.draining.append(entry)
        for entry in list(self._loading.values()):
            if self.landed(entry):
                rested = True
            elif not entry.uses and entry.ticket is not None and entry.ticket.failed:
                self._drop(entry)
                rested = True
        if self.arena.unsettled:
            self.arena.settle()
        return rested

    def _count(self, ticket: Ticket) -> None:
        if ticket.state is State.DONE:
            self.physical.bytes_read += self.keys.stored[ticket.key]

    def _disown(self, decision: Decision) -> None:
        """The Ledger gave these up: drop what no lease uses, cancelling its load."""
        for key in (*decision.evicted, *decision.cancelled):
            self._unstarted.pop(key, None)
            entry = self.entries.get(key)
            if entry is not None:
                entry.owned = False
                if not entry.uses:
                    self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        del self.entries[entry.key]
        self._loading.pop(entry.key, None)
        ticket = entry.ticket
        if ticket is None or ticket.terminal or self.mover.cancel(ticket):
            if ticket is not None:
                self._count(ticket)
            self.arena.free(entry)
        else:
            self.draining.append(entry)

    def check_integrity(self) -> None:
        """Assert what must hold between any two events, in the Ledger, here and in the arena."""
        self.ledger.check_integrity()
        self.arena.check_integrity()
        here = [*self.entries.values(), *self.draining]
        assert len(here) == len({id(entry) for entry in here}), "an entry is kept and draining"
        assert {id(place) for place in self.arena.occupants()} == {id(entry) for entry in here}, (
            "a slot is lost"
        )
        assert len(self.arena.occupants()) == len(here), "a slot is owned twice"
        for key, entry in self.entries.items():
            assert entry.key == key, "an entry is filed under another key"
            assert entry.owned == self.ledger.owns(key), "owner and Ledger disagree"
            assert entry.owned or entry.uses, "a slot is kept for nobody"
        held = [id(entry) for lease in self.leases for entry in lease.held]
        uses = [id(entry) for entry in self.entries.values() for _ in range(entry.uses)]
        assert sorted(held) == sorted(uses), "leases and uses disagree"
        loading = {key for key, entry in self.entries.items() if entry.ticket is not None}
        assert loading == set(self._loading), "a load is lost from sight"
        for entry in self.draining:
            assert entry.ticket is not None, "a slot drains without a load"
            assert not entry.uses, "a draining slot is in use"
        for key in self._unstarted:
            assert key not in self.entries, "a speculation is started and waiting"
            assert key in self.ledger.staged, "a speculation waits without a place"

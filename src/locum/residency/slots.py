"""Arena slots: which place each resident has. Pure bookkeeping; the memory is behind `Backing`.

The arena is a reserved range of addresses, committed page by page. Each size class has a sub-range of its
own, as long as the largest budget, in which slots are packed at the slot size; the lowest free index is
taken first. A page with a live slot on it is *live*; a committed page without one is *spare*. Spare pages
are kept, because committing costs a fault and a zeroing, until their memory is needed elsewhere or the
budget shrinks.

When survivors are scattered so that no page can be found, idle residents are *relocated* from the top of
their class to its lowest free index. Hence the guarantee: slots that sum up to `usable_bytes(budget)` can
be placed, whatever came before, once what is in use or being loaded has come to rest. It costs per size
class less than one page (its last one is partly empty), and, with more than one class, `transit_pages` for
relocation to work in. With one class nothing is ever relocated while the budget stands, and no page is ever
given back.

Committed pages never exceed the budget. While a budget that has just shrunk is still held by slots in use,
they never exceed what those take plus `transit_pages`, and they go as soon as the slots do.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from locum.errors import BudgetError, UsageError
from locum.residency.keys import GRAIN
from locum.residency.mover.base import Slot
from locum.residency.sizeclass import Place, SizeClass

PAGE = 2 << 20
"""Bytes per page: the huge pages of x86-64 and arm64."""


class Backing(Protocol):
    """The memory behind the arena. Offsets and lengths in bytes, multiples of the page except in `move`."""

    def commit(self, offset: int, length: int) -> None:
        """Make the range readable and writable."""

    def decommit(self, offset: int, length: int) -> None:
        """Give the range's memory back; its contents are lost."""

    def move(self, source: int, target: int, length: int) -> None:
        """Copy `length` bytes between two committed ranges that do not overlap."""


class NullBacking:
    """No memory at all: for the simulator."""

    def commit(self, offset: int, length: int) -> None:
        """Nothing to do."""

    def decommit(self, offset: int, length: int) -> None:
        """Nothing to do."""

    def move(self, source: int, target: int, length: int) -> None:
        """Nothing to do."""


def transit_pages(classes: Sequence[int], page: int = PAGE) -> int:
    """Pages kept free so that slots of several `classes` (sizes in bytes) can be relocated; 0 for one class.

    A slot overlaps at most ceil(size / page) + 1 pages, and is there twice while it moves; a class half
    compacted overlaps at most 2 pages more than before, one where the prefix ends and one where the rest
    begins.
    """
    return _transit(classes, page) if len(classes) > 1 else 0


def _transit(classes: Sequence[int], page: int) -> int:
    return -(-max(classes) // page) + 3


def minimum_bytes(slots: int, classes: Sequence[int], page: int = PAGE) -> int:
    """The arena, in bytes, that can always place slots of `slots` bytes in all, of the sizes `classes`.

    `slots` is the sum of resident bytes, speculation, and demand slots in flight. Slot sizes are multiples of
    4096, so the last page of a class wastes at most `page - 4096`.
    """
    waste = len(classes) * (page - GRAIN)
    return ((slots + waste) // page + transit_pages(classes, page)) * page


def usable_bytes(arena: int, classes: Sequence[int], page: int = PAGE) -> int:
    """The inverse of `minimum_bytes`: slots up to this sum can always be placed in `arena` bytes."""
    pages = arena // page - transit_pages(classes, page)
    return max(0, (pages + 1) * page - GRAIN - len(classes) * (page - GRAIN))


class ArenaSlots:
    """Slots of the sizes `classes` (bytes) within `budget` bytes of `backing`.

    `reserve`: the largest budget there will ever be, in bytes (default: `budget`); the arena spans
    `span` bytes of addresses. Raises `BudgetError` when a budget cannot hold one slot of the largest size,
    `UsageError` when it is above `reserve`.
    """

    def __init__(
        self,
        classes: Sequence[int],
        budget: int,
        backing: Backing,
        *,
        reserve: int | None = None,
        page: int = PAGE,
    ) -> None:
        self.sizes, self.page = tuple(classes), page
        self._reserve = max(budget, reserve or 0) // page
        length = self._reserve * page
        self._classes = [
            SizeClass(size, number * length, length, page) for number, size in enumerate(classes)
        ]
        self._backing = backing
        self.live = 0
        """Pages with a live slot on them."""
        self.committed = 0
        """Pages committed: live and spare ones."""
        self.relocations = 0
        """Slots relocated since the start."""
        self.unsettled = False
        """True while slots in use hold more than a shrunk budget: call `settle` when they come to rest."""
        self._check_budget(budget)
        self.budget = budget // page
        """Pages that may be committed."""
        self._usable = self.budget - transit_pages(classes, page)

    @property
    def span(self) -> int:
        """Bytes of address space: one sub-range per class."""
        return len(self._classes) * self._reserve * self.page

    @property
    def ceiling(self) -> int:
        """Pages that may be committed now: `budget`, or more while it is being reached."""
        if not self.unsettled:
            return self.budget
        return max(self.budget, self.live + _transit(self.sizes, self.page))

    def _check_budget(self, budget: int) -> None:
        least = minimum_bytes(max(self.sizes), self.sizes, self.page)
        if budget < least:
            raise BudgetError("the arena is too small for one expert", minimum=least, got=budget)
        if budget // self.page > self._reserve:
            raise UsageError(
                "the arena cannot grow so far", allowed=f"up to {self._reserve * self.page}", got=budget
            )

    # slots

    def put(self, place: Place, size_class: int) -> bool:
        """Give `place` a slot of class number `size_class`. False: no room until something in use rests."""
        group = self._classes[size_class]
        index = group.lowest
        if self.live + group.cost(index) > self._usable:
            if not self._make_room(group):
                return False
            index = group.lowest
        self._occupy(group, index, place)
        place.size_class = size_class
        if self.unsettled:
            self.settle()
        return True

    def free(self, place: Place) -> None:
        """Take the slot of `place` back."""
        group = self._classes[place.size_class]
        assert group.occupants.get(place.index) is place, "a slot is freed twice"
        self.live -= group.vacate(place.index)
        if self.unsettled:
            self.settle()

    def set_budget(self, budget: int) -> None:
        """Use `budget` bytes from now on. Pages that are in use go as they come to rest."""
        self._check_budget(budget)
        self.budget = budget // self.page
        self._usable = self.budget - transit_pages(self.sizes, self.page)
        self.unsettled = True
        self.settle()

    def settle(self) -> None:
        """Go on reaching a budget that shrank: relocate what can be, then give spare pages back."""
        if not self._at_rest() and self._relocation(self._at_rest, self._by_waste()):
            assert self._at_rest()
        self.unsettled = not self._at_rest()
        self._reclaim(self.committed - self.ceiling)

    def _at_rest(self) -> bool:
        """True when everything live is where the present budget wants it."""
        if len(self._classes) > 1:
            return self.live <= self._usable
        return self._classes[0].end * self.sizes[0] <= self.budget * self.page

    # pages

    def _occupy(self, group: SizeClass, index: int, place: Place) -> None:
        """Put `place` at `index`, committing the pages it needs."""
        self.live += group.occupy(index, place)
        missing = group.uncommitted(index)
        if missing:
            self._reclaim(self.committed + len(missing) - self.ceiling)
            for offset, length in group.runs(missing):
                self._backing.commit(offset, length)
            group.mark(missing, committed=True)
            self.committed += len(missing)
            assert self.committed <= self.ceiling, "committed pages exceed the budget"
        place.slot = Slot(group.base + index * group.stride, group.stride)

    def _reclaim(self, pages: int) -> None:
        """Give up to `pages` spare pages back, the topmost of each class first."""
        for group in self._classes:
            if pages <= 0:
                return
            spare = group.take_spare(pages)
            for offset, length in group.runs(spare):
                self._backing.decommit(offset, length)
            group.mark(spare, committed=False)
            self.committed -= len(spare)
            pages -= len(spare)

    # relocation

    def _make_room(self, group: SizeClass) -> bool:
        """Relocate until one more slot fits in `group`, if that can be done."""
        packed = sum(c.packed_pages(len(c.occupants) + (c is group)) for c in self._classes)
        if packed > self._usable:
            return False

        def fits() -> bool:
            return self.live + group.cost(group.lowest) <= self._usable

        return self._relocation(fits, self._by_waste())

    def _by_waste(self) -> list[SizeClass]:
        """The classes, the one that compaction helps most first."""
        return sorted(self._classes, key=lambda c: c.packed_pages(len(c.occupants)) - c.live)

    def _relocation(self, goal: Callable[[], bool], order: Iterable[SizeClass]) -> bool:
        """Relocate idle slots until `goal`. Plans first: unless the goal can be reached, nothing is moved."""
        peak = max(self.ceiling, self.live)
        plan: list[tuple[SizeClass, int, int]] = []
        for group in order:
            for source in sorted(group.occupants, reverse=True):
                target = group.lowest
                if goal() or target > source:
                    break
                place = group.occupants[source]
                if not place.movable:
                    continue
                if self.live + group.cost(target) > peak:
                    break
                self.live += group.occupy(target, place)
                self.live -= group.vacate(source)
                plan.append((group, source, target))
        reached = goal()
        for group, source, target in reversed(plan):
            self.live += group.occupy(source, group.occupants[target])
            self.live -= group.vacate(target)
        if reached:
            for group, source, target in plan:
                self._move(group, source, target)
        return reached

    def _move(self, group: SizeClass, source: int, target: int) -> None:
        place = group.occupants[source]
        old = place.slot
        self._occupy(group, target, place)
        self._backing.move(old.offset, place.slot.offset, group.stride)
        self.live -= group.vacate(source)
        self.relocations += 1

    # questions

    def occupants(self) -> list[Place]:
        """Everything that has a slot."""
        return [place for group in self._classes for place in group.occupants.values()]

    def check_integrity(self) -> None:
        """Assert what must hold between any two calls."""
        for group in self._classes:
            group.check_integrity()
        assert self.live == sum(group.live for group in self._classes), "live pages are miscounted"
        assert self.committed == sum(sum(group.committed) for group in self._classes), "pages are miscounted"
        assert self.live <= self.committed <= self.ceiling, "committed pages exceed the budget"
        assert self.unsettled or self.live <= self._usable, "the transit pages are in use"
        assert self.unsettled == (not self._at_rest()), "the arena has not settled though it could"

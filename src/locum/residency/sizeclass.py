"""One size class of the arena: slots of one size packed in one sub-range, and the pages they lie on."""

from array import array
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from locum.residency.mover.base import Slot

_NOWHERE = Slot(0, 0)


class Place:
    """What occupies a slot. The arena sets `slot`, and changes it when it relocates a `movable` place."""

    __slots__ = ("index", "size_class", "slot")

    def __init__(self) -> None:
        self.slot = _NOWHERE
        self.index = self.size_class = -1

    @property
    def movable(self) -> bool:
        """True when nobody reads or writes the slot now."""
        return True


class SizeClass:
    """Slots of `stride` bytes from `base` on, within `length` bytes, on pages of `page` bytes.

    Pages are numbered from 0 within the sub-range. `_slots_on[p]` counts the live slots that overlap page p.
    """

    def __init__(self, stride: int, base: int, length: int, page: int) -> None:
        self.stride, self.base, self.page = stride, base, page
        pages = length // page
        self._slots_on = array("H", bytes(2 * pages))
        self.committed = bytearray(pages)
        self.live = 0
        self.occupants: dict[int, Place] = {}
        self._holes: list[int] = []
        self._listed: set[int] = set()
        self._frontier = 0
        self._spare: list[int] = []
        self._spare_listed = bytearray(pages)

    @property
    def lowest(self) -> int:
        """The lowest free index."""
        holes = self._holes
        while holes and holes[0] in self.occupants:
            self._listed.discard(heappop(holes))
        return holes[0] if holes else self._frontier

    @property
    def end(self) -> int:
        """One more than the highest index in use."""
        return max(self.occupants, default=-1) + 1

    def pages(self, index: int) -> range:
        """The pages that slot `index` overlaps."""
        start = index * self.stride
        return range(start // self.page, (start + self.stride - 1) // self.page + 1)

    def packed_pages(self, count: int) -> int:
        """Live pages with `count` slots and no hole."""
        return -(-count * self.stride // self.page)

    def cost(self, index: int) -> int:
        """How many pages would become live if slot `index` were taken."""
        counts = self._slots_on
        pages = self.pages(index)
        return counts[pages.start : pages.stop].count(0) + max(0, pages.stop - max(pages.start, len(counts)))

    def occupy(self, index: int, place: Place) -> int:
        """Put `place` at `index`; returns how many pages became live."""
        assert index not in self.occupants, "a slot is taken twice"
        counts, pages = self._slots_on, self.pages(index)
        fresh = counts[pages.start : pages.stop].count(0)
        for page in pages:
            counts[page] += 1
        self.occupants[index] = place
        place.index = index
        while self._frontier <= index:
            if self._frontier < index:
                self._list_hole(self._frontier)
            self._frontier += 1
        self.live += fresh
        return fresh

    def vacate(self, index: int) -> int:
        """Free slot `index`; returns how many pages are no longer live."""
        del self.occupants[index]
        self._list_hole(index)
        counts, idle = self._slots_on, 0
        for page in self.pages(index):
            counts[page] -= 1
            if not counts[page]:
                idle += 1
                if not self._spare_listed[page]:
                    self._spare_listed[page] = True
                    heappush(self._spare, -page)
        self.live -= idle
        return idle

    def _list_hole(self, index: int) -> None:
        if index not in self._listed:
            self._listed.add(index)
            heappush(self._holes, index)

    def uncommitted(self, index: int) -> list[int]:
        """The pages of slot `index` that have no memory yet."""
        pages = self.pages(index)
        if 0 not in self.committed[pages.start : pages.stop]:
            return []
        return [page for page in pages if not self.committed[page]]

    def take_spare(self, most: int) -> list[int]:
        """Up to `most` committed pages without a live slot, ascending: the topmost there are."""
        found: list[int] = []
        while self._spare and len(found) < most:
            page = -heappop(self._spare)
            self._spare_listed[page] = False
            if self.committed[page] and not self._slots_on[page]:
                found.append(page)
        return found[::-1]

    def mark(self, pages: Sequence[int], *, committed: bool) -> None:
        """Note that `pages` have memory, or have it no longer."""
        for page in pages:
            self.committed[page] = committed

    def runs(self, pages: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Ascending `pages` as (offset, length) in bytes within the arena, neighbours together."""
        start = 0
        for place in range(1, len(pages) + 1):
            if place == len(pages) or pages[place] != pages[place - 1] + 1:
                yield self.base + pages[start] * self.page, (place - start) * self.page
                start = place

    def check_integrity(self) -> None:
        """Assert that counts and pages agree with the occupants."""
        counts = [0] * len(self._slots_on)
        for index, place in self.occupants.items():
            assert place.index == index, "an occupant is not where it believes"
            assert place.slot.offset == self.base + index * self.stride, "a slot has another offset"
            for page in self.pages(index):
                counts[page] += 1
                assert self.committed[page], "a live slot lies on a page without memory"
        assert counts == list(self._slots_on), "slots per page are miscounted"
        assert self.live == sum(map(bool, counts)), "live pages are miscounted"
        free = [index for index in range(self._frontier) if index not in self.occupants]
        assert self.lowest == (free[0] if free else self._frontier), "a free index is lost"
        spare = {page for page, count in enumerate(counts) if self.committed[page] and not count}
        assert spare <= {-page for page in self._spare}, "a spare page is lost"

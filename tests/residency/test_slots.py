"""Arena slots: whatever fits by its bytes can be placed, and the pages never exceed the budget."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_movers import SMALL_PAGE, Memory
from locum.errors import BudgetError, UsageError
from locum.residency.keys import GRAIN
from locum.residency.mover.base import Priority, Ticket
from locum.residency.sizeclass import Place
from locum.residency.slots import PAGE, ArenaSlots, NullBacking, minimum_bytes, transit_pages, usable_bytes

size_sets = st.sets(st.integers(1, 13), min_size=1, max_size=4).map(
    lambda grains: tuple(size * GRAIN for size in sorted(grains))
)


class Fake(Place):
    """A resident with a number; `held` ones may not be moved."""

    def __init__(self, number: int, size: int) -> None:
        super().__init__()
        self.number, self.size, self.held = number, size, False

    @property
    def movable(self) -> bool:
        return not self.held


class Play:
    """An arena, its memory, and who should be in it."""

    def __init__(self, classes: tuple[int, ...], slots: int, reserve: int) -> None:
        self.classes = classes
        self.memory = Memory()
        self.arena = ArenaSlots(
            classes,
            minimum_bytes(slots, classes, SMALL_PAGE),
            self.memory,
            reserve=minimum_bytes(reserve, classes, SMALL_PAGE),
            page=SMALL_PAGE,
        )
        self.here: list[Fake] = []
        self.count = 0

    def used(self) -> int:
        return sum(place.size for place in self.here)

    def put(self, size: int) -> bool:
        self.count += 1
        place = Fake(self.count, size)
        if not self.arena.put(place, self.classes.index(size)):
            self.check()
            return False
        self.here.append(place)
        self.memory.write(Ticket(place.number, place.slot, Priority.DEMAND), True)
        self.check()
        return True

    def free(self, place: Fake) -> None:
        self.here.remove(place)
        self.arena.free(place)
        self.check()

    def check(self) -> None:
        self.arena.check_integrity()
        assert set(map(id, self.arena.occupants())) == set(map(id, self.here))
        assert self.arena.committed == len(self.memory.pages)
        for place in self.here:
            assert place.slot.size == place.size
            assert self.memory.holds(place.slot, place.number), "a relocation lost the bytes"


@settings(max_examples=200, deadline=None)
@given(size_sets, st.integers(0, 60), st.randoms(use_true_random=False))
def test_what_fits_by_its_bytes_is_placed(classes: tuple[int, ...], more: int, rng: random.Random) -> None:
    """Frees at random scatter the survivors; a new slot is refused only when the bytes really do not fit."""
    capacity = max(classes) + more * GRAIN
    play = Play(classes, capacity, capacity)
    budget = play.arena.budget
    for _ in range(60):
        size = rng.choice(classes)
        if rng.random() < 0.55:
            placed = play.put(size)
            assert placed or play.used() + size > capacity
        elif play.here:
            play.free(rng.choice(play.here))
        assert play.arena.committed <= budget
        assert not play.arena.unsettled
    if len(classes) == 1:
        assert play.memory.moved == 0, "one class is never relocated"


@settings(max_examples=200, deadline=None)
@given(size_sets, st.randoms(use_true_random=False))
def test_budgets_change_while_slots_are_held(classes: tuple[int, ...], rng: random.Random) -> None:
    largest = max(classes)
    play = Play(classes, largest + 20 * GRAIN, largest + 60 * GRAIN)
    capacity = largest + 20 * GRAIN
    for _ in range(60):
        what = rng.random()
        before = play.arena.committed
        if what < 0.5:
            play.put(rng.choice(classes))
        elif what < 0.7 and play.here:
            play.free(rng.choice(play.here))
        elif what < 0.85 and play.here:
            place = rng.choice(play.here)
            place.held = not place.held
            play.arena.settle()
        else:
            capacity = largest + rng.randint(0, 60) * GRAIN
            play.arena.set_budget(minimum_bytes(capacity, classes, SMALL_PAGE))
            assert play.arena.committed <= max(before, play.arena.budget), "committed more while shrinking"
        play.check()
    for place in play.here:
        place.held = False
    for place in list(play.here):
        if play.used() > capacity:
            play.free(place)
    play.arena.settle()
    assert not play.arena.unsettled
    assert play.arena.committed <= play.arena.budget
    for size in classes:
        fits = play.used() + size <= capacity
        assert play.put(size) or not fits, "what fits by its bytes was refused"


def test_one_class_keeps_its_pages() -> None:
    """In the usual case slots come and go without one page being given back or one slot moved."""

    class Counting(NullBacking):
        commits = decommits = moves = 0

        def commit(self, offset: int, length: int) -> None:
            self.commits += 1

        def decommit(self, offset: int, length: int) -> None:
            self.decommits += 1

        def move(self, source: int, target: int, length: int) -> None:
            self.moves += 1

    backing = Counting()
    size = 12 * (1 << 20) + GRAIN
    arena = ArenaSlots([size], minimum_bytes(10 * size, [size]), backing)
    rng, here = random.Random(1), []
    for _ in range(10):
        here.append(Place())
        assert arena.put(here[-1], 0)
    assert not arena.put(Place(), 0)
    commits = backing.commits
    for _ in range(200):
        arena.free(here.pop(rng.randrange(len(here))))
        here.append(Place())
        assert arena.put(here[-1], 0)
    assert (backing.commits, backing.decommits, backing.moves) == (commits, 0, 0)


def test_pages_of_one_size_serve_another() -> None:
    play = Play((2 * GRAIN, 5 * GRAIN), 20 * GRAIN, 20 * GRAIN)
    while play.put(2 * GRAIN):
        pass
    for place in list(play.here)[::2]:
        play.free(place)
    assert play.put(5 * GRAIN)
    assert play.memory.moved > 0


@given(size_sets, st.integers(0, 4000), st.sampled_from([SMALL_PAGE, PAGE]))
def test_minimum_and_usable_are_inverses(classes: tuple[int, ...], grains: int, page: int) -> None:
    slots = grains * GRAIN
    arena = minimum_bytes(slots, classes, page)
    assert arena % page == 0
    assert usable_bytes(arena, classes, page) >= slots
    if arena >= page:
        assert usable_bytes(arena - page, classes, page) < slots or slots == 0
    pages = -(-slots // page)
    assert arena // page <= pages + len(classes) - 1 + transit_pages(classes, page), (
        "the slack that is promised"
    )
    if len(classes) == 1:
        assert arena // page == pages


def test_budgets_out_of_bounds_are_refused() -> None:
    size = 3 << 20
    with pytest.raises(BudgetError, match="too small for one expert") as error:
        ArenaSlots([size], PAGE, NullBacking())
    assert error.value.minimum == 2 * PAGE
    arena = ArenaSlots([size], 4 * PAGE, NullBacking(), reserve=6 * PAGE)
    assert arena.span == 6 * PAGE
    with pytest.raises(UsageError, match="cannot grow so far"):
        arena.set_budget(7 * PAGE)
    with pytest.raises(BudgetError):
        arena.set_budget(PAGE)
    arena.set_budget(6 * PAGE)
    assert arena.budget == 6

"""ARC and FIFO against the plainest way to write them down."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from locum.policy import create
from locum.residency.keys import GRAIN, KeySpace
from locum.residency.ledger import Ledger

KEYS = 9
wishes = st.lists(st.integers(0, KEYS - 1), min_size=1, max_size=120)


def hits_of(policy: str, wanted: list[int], slots: int) -> list[bool]:
    ledger = Ledger(KeySpace.uniform(1, KEYS, GRAIN), [slots * GRAIN], create(policy))
    found = []
    for step, key in enumerate(wanted):
        ledger.step(step, 1, 1)
        found.append(bool(ledger.acquire(0, [key]).hits))
        ledger.check_integrity()
    return found


def arc_of_the_paper(wanted: list[int], c: int) -> list[bool]:
    """Figure 4, case by case, on lists whose first element is the least recent."""
    t1: list[int] = []
    t2: list[int] = []
    b1: list[int] = []
    b2: list[int] = []
    p, found = 0.0, []

    def replace(x: int) -> None:
        if t1 and (len(t1) > p or (x in b2 and len(t1) == p)):
            b1.append(t1.pop(0))
        else:
            b2.append(t2.pop(0))

    for x in wanted:
        found.append(x in t1 or x in t2)
        if x in t1 or x in t2:  # case I
            (t1 if x in t1 else t2).remove(x)
            t2.append(x)
        elif x in b1:  # case II
            p = min(c, p + max(1.0, len(b2) / len(b1)))
            replace(x)
            b1.remove(x)
            t2.append(x)
        elif x in b2:  # case III
            p = max(0.0, p - max(1.0, len(b1) / len(b2)))
            replace(x)
            b2.remove(x)
            t2.append(x)
        else:  # case IV
            if len(t1) + len(b1) == c:
                if len(t1) < c:
                    b1.pop(0)
                    replace(x)
                else:
                    t1.pop(0)
            elif (total := len(t1) + len(t2) + len(b1) + len(b2)) >= c:
                if total == 2 * c:
                    b2.pop(0)
                replace(x)
            t1.append(x)
    return found


@settings(max_examples=1000, deadline=None)
@given(wishes, st.integers(1, KEYS))
def test_arc_is_the_papers(wanted: list[int], slots: int) -> None:
    assert hits_of("arc", wanted, slots) == arc_of_the_paper(wanted, slots)


def test_arc_keeps_what_came_again_through_a_scan() -> None:
    """The reason for ARC: a scan of keys asked for once does not push out those in real use."""
    wanted = [0, 1, 0, 1, *([2, 3, 4, 5, 6, 7, 8] * 3), 0, 1]
    assert hits_of("arc", wanted, 4)[-2:] == [True, True]
    assert hits_of("lru", wanted, 4)[-2:] == [False, False]


@settings(max_examples=300, deadline=None)
@given(wishes, st.integers(1, KEYS))
def test_fifo_is_a_queue(wanted: list[int], slots: int) -> None:
    queue: list[int] = []
    expected: list[Any] = []
    for key in wanted:
        expected.append(key in queue)
        if key not in queue:
            queue = [*queue, key][-slots:]
    assert hits_of("fifo", wanted, slots) == expected

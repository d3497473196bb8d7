"""A Ledger restored from another's state, through JSON, goes on as that one does."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import UsageError
from locum.policy import EVICTION, create
from locum.residency.keys import KeyRange, KeySpace
from locum.residency.ledger import Ledger

LAYERS, EXPERTS = 3, 8
KEYS = KeySpace(
    [KeyRange(layer, layer * EXPERTS, (layer + 1) * 4096, (5000,) * EXPERTS) for layer in range(LAYERS)],
    groups=(0, 1, 0),
)


def ledger(eviction: str, wave: Any, capacity: int = 12 * 4096) -> Ledger:
    return Ledger(
        KEYS, [capacity, capacity // 2], create(eviction), speculation=6 * 4096, wave=wave, provides={"next"}
    )


def play(subject: Ledger, seed: int, first: int, last: int) -> list[Any]:
    """The answers to steps `first` up to `last` of a sequence of events that the seed fixes."""
    answers: list[Any] = []
    for number in range(first, last):
        rng = random.Random(seed * 1000 + number)
        subject.step(number, rng.randint(0, 1), rng.randint(1, 4))
        for layer in range(LAYERS):
            tick, own = number * LAYERS + layer, range(layer * EXPERTS, (layer + 1) * EXPERTS)
            ids = sorted(rng.sample(own, rng.choice([1, 2, 3, 8])))
            info = {"next": [tick + rng.randint(1, 20) for _ in ids]}
            answers.append(subject.acquire(layer, ids, info))
            ahead = rng.sample(range(LAYERS * EXPERTS), 4)
            answers.append(subject.want((key, tick + rng.randint(1, 5)) for key in ahead))
    return answers


@pytest.mark.parametrize("wave", ["rank", "bypass"])
@pytest.mark.parametrize("eviction", sorted(EVICTION))
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 30))
def test_it_goes_on_as_the_other_does(eviction: str, wave: str, seed: int, cut: int) -> None:
    one, other = ledger(eviction, wave), ledger(eviction, wave)
    play(one, seed, 0, cut)
    other.restore(json.loads(json.dumps(one.state())))
    other.check_integrity()
    assert other.state() == one.state()
    assert play(other, seed, cut, cut + 12) == play(one, seed, cut, cut + 12)


@given(seed=st.integers(0, 1000))
def test_what_cannot_be_there_is_refused(seed: int) -> None:
    one = ledger("lru", "rank")
    play(one, seed, 0, 5)
    with pytest.raises(UsageError, match="another size"):
        ledger("lru", "rank", 10 * 4096).restore(one.state())
    for broken in ([1, 2, 999], [9], list(range(EXPERTS)) + list(range(2 * EXPERTS, 3 * EXPERTS))):
        state = json.loads(json.dumps(one.state()))
        state["groups"][0]["cached"] = broken
        with pytest.raises((ValueError, IndexError)):
            ledger("lru", "rank").restore(state)

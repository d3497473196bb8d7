"""Eviction policies against naive ones and against brute force."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_ledger import SCORED, NaiveLedger
from locum.errors import PolicyError, UsageError
from locum.policy import create
from locum.policy.base import NEVER, Scope, require, take_until
from locum.policy.order import LowestFirst
from locum.residency.keys import KeySpace
from locum.residency.ledger import Ledger

EXPERTS = 6
Batches = list[list[int]]

batches = st.lists(
    st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=4, unique=True).map(sorted),
    min_size=1,
    max_size=9,
)


def next_uses(trace: Batches) -> Batches:
    """For each id of each batch, the number of the next batch that has it."""
    return [
        [next((t for t in range(now + 1, len(trace)) if key in trace[t]), NEVER) for key in ids]
        for now, ids in enumerate(trace)
    ]


def replay(trace: Batches, slots: int, policy: str, **params: int) -> list[list[int]]:
    """Evictions and streamed of each batch, one layer, slots of one size."""
    keys = KeySpace.uniform(1, EXPERTS, 4096)
    ledger = Ledger(keys, [slots * 4096], create(policy, **params), provides={"next"})
    naive = NaiveLedger(keys, [slots * 4096], policy, 0, "rank", **params)
    for step, (ids, following) in enumerate(zip(trace, next_uses(trace), strict=True)):
        ledger.step(step, 1, 1)
        naive.step(step)
        decision = ledger.acquire(0, ids, {"next": following})
        assert tuple(decision) == naive.acquire(0, ids, following)
        ledger.check_integrity()
    return [[ledger.stats.misses]]


@given(batches, st.integers(1, 5), st.sampled_from(SCORED))
def test_equals_the_naive_policy(trace: Batches, slots: int, policy: str) -> None:
    replay(trace, slots, policy, **({"period": 5} if policy == "lfu-aging" else {}))


def fewest_misses(trace: Batches, slots: int) -> int:
    """Brute force over every choice a cache has, given that what is asked for must fit or compete."""
    states = {frozenset[int](): 0}
    for ids in trace:
        asked = frozenset(ids)
        after: dict[frozenset[int], int] = {}
        for state, misses in states.items():
            cost = misses + len(asked - state)
            everyone = state | asked
            must = asked if len(asked) <= slots else frozenset[int]()
            for kept in itertools.combinations(
                sorted(everyone - must), min(slots, len(everyone)) - len(must)
            ):
                key = must.union(kept)
                after[key] = min(cost, after.get(key, cost))
        states = after
    return min(states.values())


@settings(max_examples=300)
@given(batches, st.integers(1, 4))
def test_belady_is_optimal_for_equal_sizes(trace: Batches, slots: int) -> None:
    [[misses]] = replay(trace, slots, "belady")
    assert misses == fewest_misses(trace, slots)


def test_brute_force_can_tell_policies_apart() -> None:
    trace = [[0], [1], [2], [0], [1], [2], [0], [1], [2]]
    best = fewest_misses(trace, 2)
    assert best < replay(trace, 2, "lru")[0][0]
    assert best < 9


def test_ageing_forgets_where_plain_lfu_does_not() -> None:
    trace = [[0]] * 8 + [[1], [2]] * 6
    plain, aged = replay(trace, 2, "lfu"), replay(trace, 2, "lfu-aging", period=4)
    assert plain > aged, "the old favourite blocks a slot for ever"


def test_recency_is_in_id_order_whatever_hit() -> None:
    policy = create("lru")(Scope(0, 4, (1,) * 8, (0,) * 8, 1))
    policy.use(0, 0, [5], [5], None)
    policy.use(1, 0, [3, 5, 7], [3, 7], None)
    assert policy.victims(3, ()) == [3, 5, 7]


def test_mixed_sizes_free_what_is_needed_and_no_more() -> None:
    sizes = (4, 1, 1, 4)
    assert take_until(2, range(4), sizes, ()) == [0]
    assert take_until(2, range(4), sizes, {0}) == [1, 2]
    assert take_until(0, range(4), sizes, ()) == []
    with pytest.raises(PolicyError, match="expected 7 bytes; got 6 bytes"):
        take_until(7, range(4), sizes, {0})


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 9), st.integers(0, 3)),
            st.tuples(st.just("discard"), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("take"), st.integers(1, 4), st.integers(0, 9)),
            st.tuples(st.just("rescore"), st.integers(1, 3), st.just(0)),
        ),
        max_size=200,
    )
)
def test_lowest_first_equals_a_sorted_list(events: list[tuple[str, int, int]]) -> None:
    order, model = LowestFirst(), dict[int, tuple[float, int, int]]()
    for stamp, (what, a, b) in enumerate(events):
        if what == "set":
            order.set(a, b, stamp)
            model[a] = (b, stamp, a)
        elif what == "discard":
            order.discard(a)
            model.pop(a, None)
        elif what == "rescore":
            order.rescore({key: key % a for key in model})
            model = {key: (key % a, at, key) for key, (_, at, _) in model.items()}
        else:
            expected = [key for _, _, key in sorted(model.values()) if key != b][:a]
            if len(expected) < a:
                with pytest.raises(PolicyError):
                    order.take(a, (1,) * 10, {b})
            else:
                assert order.take(a, (1,) * 10, {b}) == expected
                for key in expected:
                    del model[key]
        assert all((key in order) == (key in model) for key in range(10))


def test_unknown_names_and_parameters_are_refused_by_name() -> None:
    with pytest.raises(
        UsageError, match=r"no eviction policy is called random.*lru, lfu, lfu-aging, fifo, arc, belady"
    ):
        create("random")
    with pytest.raises(UsageError, match="lru has no parameter period; expected no parameters"):
        create("lru", period=3)
    with pytest.raises(UsageError, match="must be positive"):
        create("lfu-aging", period=0)(Scope(0, 4, (1,), (0,), 1))


def test_belady_is_refused_without_the_future() -> None:
    assert create("belady").needs == {"next"}
    with pytest.raises(
        UsageError, match=r"the policy belady needs next; got a source that provides counts, weights"
    ):
        require("belady", create("belady").needs, {"weights", "counts"})
    with pytest.raises(UsageError, match="belady needs next"):
        Ledger(KeySpace.uniform(1, 2, 4096), [4096], create("belady"), provides={"counts"})

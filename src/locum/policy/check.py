"""The conformance suite of eviction policies: `check_policy(factory)` on ours and on anybody else's.

It plays random requests, waves, drops and budget changes with experts of two sizes against the policy,
keeping its own book of who is resident, and holds every answer against the contract in `policy/base.py`.
"""

import json
import random
from collections.abc import Callable, Collection, Sequence
from typing import Any

from locum.errors import PolicyError
from locum.policy.base import NEEDS, NEVER, EvictionPolicy, PolicyFactory, Scope

LAYERS, EXPERTS = 3, 12
_SIZES = [(1, 3)[key % 2] for key in range(LAYERS * EXPERTS)]
_LAYER_OF = [key // EXPERTS for key in range(LAYERS * EXPERTS)]

Events = list[tuple[Any, ...]]


def check_policy(factory: PolicyFactory, *, seeds: int = 20, steps: int = 60, ties: bool = True) -> None:
    """Raise `PolicyError`, naming the broken rule, unless the policies `factory` makes keep the contract.

    `seeds` x `steps` random events are played. `ties=False` leaves out the rule that experts with equal
    history leave by smallest key: for policies whose scores differ from the start.
    """
    for seed in range(seeds):
        plain = _play(factory, seed, steps, frozenset)
        again = _play(factory, seed, steps, frozenset)
        _demand(plain == again, "the same events gave different victims", seed)
        moved = _play(factory, seed, steps, frozenset, moves=True)
        _demand(plain == moved, "a policy restored from `state` goes on differently", seed)
        shuffled = _play(factory, seed, steps, _awkward)
        _demand(plain == shuffled, "victims depend on how `protected` is stored", seed)
    if ties:
        _check_ties(factory)


def _demand(kept: bool, rule: str, got: object) -> None:
    if not kept:
        raise PolicyError(f"contract broken: {rule}", got=got)


def _scope(capacity: int, sizes: Sequence[int] = _SIZES) -> Scope:
    return Scope(0, capacity, tuple(sizes), tuple(_LAYER_OF), LAYERS)


def _make(factory: PolicyFactory, scope: Scope) -> tuple[EvictionPolicy, frozenset[str]]:
    policy = factory(scope)
    needs = frozenset(policy.needs)
    _demand(needs <= NEEDS, "`needs` names something unknown", sorted(needs - NEEDS))
    return policy, needs


def _awkward(keys: Collection[int]) -> Collection[int]:
    """The same keys in a dict, in another order, with keys among them that are not resident anywhere."""
    return dict.fromkeys([*sorted(keys, reverse=True), -1, LAYERS * EXPERTS + 5])


def _info(needs: frozenset[str], rng: random.Random, tick: int, layer: int, ids: list[int]) -> dict[str, Any]:
    """Values of the right shape for everything the policy needs, the same for the same state of `rng`."""
    keys = range(layer * EXPERTS, (layer + 1) * EXPERTS)
    everything = {
        "counts": [rng.randint(1, 4) for _ in ids],
        "weights": [rng.randint(1, 8) / 8 for _ in ids],
        "next": [rng.choice([tick + rng.randint(1, 30), NEVER]) for _ in ids],
        "probs": (list(keys)[:8], [rng.randint(0, 16) / 16 for _ in range(8)]),
        "window": {key: rng.randint(0, 3) for key in range(LAYERS * EXPERTS)},
        "rows": [tuple(ids)],
    }
    return {name: everything[name] for name in needs}


class _Game:
    """One policy, and the book of what it must believe."""

    def __init__(
        self, factory: PolicyFactory, seed: int, wrap: Callable[[Collection[int]], Collection[int]]
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - events, not secrets
        self.capacity = self.rng.randint(4, 30)
        self.policy, self.needs = _make(factory, _scope(self.capacity))
        self.wrap = wrap
        self.resident: set[int] = set()
        self.answers: Events = []

    def use(self, tick: int, layer: int, ids: list[int], new: list[int]) -> None:
        """`use`, looking whether the arguments came back as they went in."""
        given = list(ids), list(new), _info(self.needs, self.rng, tick, layer, ids)
        before = repr(given)
        self.policy.use(tick, layer, *given)
        _demand(repr(given) == before, "`use` changed its arguments", before)
        self.resident.update(new)

    def evict(self, need: int, protected: Collection[int]) -> None:
        """`victims`, held against every rule."""
        wrapped = self.wrap(protected)
        before = list(wrapped)
        chosen = self.policy.victims(need, wrapped)
        _demand(list(wrapped) == before, "`victims` changed `protected`", protected)
        _demand(isinstance(chosen, list), "`victims` must return a list", type(chosen).__name__)
        _demand(len(set(chosen)) == len(chosen), "a victim was named twice", chosen)
        _demand(not set(chosen) & set(protected), "a protected expert was named", chosen)
        _demand(
            set(chosen) <= self.resident, "a victim was not resident", sorted(set(chosen) - self.resident)
        )
        freed = sum(_SIZES[key] for key in chosen)
        _demand(freed >= need, f"victims free too little, {need} asked", freed)
        spare = freed - (_SIZES[chosen[-1]] if chosen else 0)
        _demand(not chosen or spare < need, "more victims than needed", chosen)
        self.resident.difference_update(chosen)
        self.answers.append(tuple(chosen))

    def acquire(self, tick: int, layer: int) -> None:
        """One request of a few experts, or of so many that they compete with each other or stream past."""
        first = layer * EXPERTS
        ids = sorted(self.rng.sample(range(first, first + EXPERTS), self.rng.choice([1, 2, 3, 8, 12])))
        new = [key for key in ids if key not in self.resident]
        pinned = frozenset(key for key in sorted(self.resident) if self.rng.random() < 0.2)
        others = self.used() - self.used(pinned.union(ids))
        over = self.used() + sum(_SIZES[key] for key in new) - self.capacity
        if over <= 0:
            self.use(tick, layer, ids, new)
        elif over <= others:
            self.use(tick, layer, ids, new)
            self.evict(over, pinned.union(ids))
        elif self.rng.random() < 0.5:
            self.use(tick, layer, ids, [])
        else:
            self.use(tick, layer, ids, new)
            self.evict(over, pinned if over <= self.used() - self.used(pinned) else frozenset())

    def used(self, among: Collection[int] | None = None) -> int:
        """Bytes resident, all or of those in `among`."""
        keys = self.resident if among is None else self.resident.intersection(among)
        return sum(_SIZES[key] for key in keys)

    def resize(self) -> None:
        """Another budget, below what is resident half of the time."""
        self.capacity = self.rng.randint(1, 30)
        self.policy.resize(self.capacity)
        over = self.used() - self.capacity
        if over > 0:
            self.evict(over, frozenset())

    def move(self, factory: PolicyFactory) -> None:
        """Go on with a fresh policy that is told what this one knows."""
        state = json.loads(json.dumps(self.policy.state()))
        self.policy, _ = _make(factory, self.policy.scope)
        self.policy.restore(state)

    def drop(self) -> None:
        """A key leaves, resident or not."""
        key = self.rng.randrange(LAYERS * EXPERTS)
        self.policy.drop(key)
        self.resident.discard(key)


def _play(
    factory: PolicyFactory,
    seed: int,
    steps: int,
    wrap: Callable[[Collection[int]], Collection[int]],
    *,
    moves: bool = False,
) -> Events:
    """All answers of one policy to one random sequence of events. `moves`: again and again what it knows goes
    through JSON into a fresh one.
    """
    game = _Game(factory, seed, wrap)
    rng = game.rng
    for step in range(steps):
        if moves and step % 3 == 1:
            game.move(factory)
        policy = game.policy
        if rng.random() < 0.1:
            policy.request(step, begin=False)
            policy.request(step + 1, begin=True)
        policy.step(step, rng.randint(0, 1), rng.randint(1, 5))
        for layer in range(LAYERS):
            if rng.random() < 0.2:
                policy.forecast(0, layer, [layer * EXPERTS], [0.5])
            game.acquire(step * LAYERS + layer, layer)
        if rng.random() < 0.1:
            game.drop()
        if rng.random() < 0.05:
            game.resize()
    if game.resident:
        game.evict(game.used(), frozenset())
    _demand(not game.resident, "a resident could not be evicted", sorted(game.resident))
    return game.answers


def _check_ties(factory: PolicyFactory) -> None:
    """Experts of one size with one and the same history leave by smallest key."""
    policy, needs = _make(factory, _scope(EXPERTS, [1] * len(_SIZES)))
    ids = list(range(EXPERTS))
    even = {
        "counts": [1] * EXPERTS,
        "weights": [0.5] * EXPERTS,
        "next": [NEVER] * EXPERTS,
        "rows": [tuple(ids)],
    }
    info = {**even, "probs": (ids, [0.25] * EXPERTS), "window": dict.fromkeys(range(LAYERS * EXPERTS), 1)}
    policy.use(0, 0, ids, ids, {name: info[name] for name in needs})
    leaving = policy.victims(5, frozenset({1}))
    _demand(leaving == [0, 2, 3, 4, 5], "ties must break by stamp, then by key", leaving)

"""What the tests of the residency room share: a rig that plays events and checks everything after each."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from helpers_ledger import NaiveLedger
from helpers_movers import SMALL_PAGE, ByHand, Memory, ThreadMover
from locum.errors import BudgetError, LoadError
from locum.policy import create
from locum.residency.keys import GRAIN, KeyRange, KeySpace
from locum.residency.lease import Lease
from locum.residency.ledger import Ledger
from locum.residency.mover.base import Mover, Slot
from locum.residency.mover.faulty import FaultyMover
from locum.residency.mover.virtual import VirtualMover
from locum.residency.residency import Residency, arena_bytes
from locum.residency.slots import ArenaSlots, NullBacking

LAYERS, EXPERTS = 3, 8


def key_space(sizes: Sequence[int], groups: Sequence[int] = (0, 0, 1)) -> KeySpace:
    """Three layers of eight experts; each further size (in grains) is a further piece of every expert."""
    ranges = []
    for piece, size in enumerate(sizes):
        for layer in range(LAYERS):
            first = (piece * LAYERS + layer) * EXPERTS
            stored = tuple(size * GRAIN - 7 * expert for expert in range(EXPERTS))
            ranges.append(KeyRange(layer, first, size * GRAIN, stored, f"piece {piece}"))
    return KeySpace(ranges, groups)


class Rig:
    """A Residency beside the naive Ledger: every event goes to both, and everything is checked after each.

    The naive Ledger hears of program events alone, so its agreement shows that faults, delays and abandoned
    leases change no decision.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int] = (3,),
        capacities: Sequence[int] = (30, 12),
        speculation: int = 6,
        wave: str = "rank",
        policy: str = "lru",
        failures: float = 0.0,
        delays: float = 0.0,
        jitter: float = 0.0,
        channels: int = 2,
        blocks: int = 2,
        extra: int = 0,
        threads: bool = False,
        seed: int = 0,
    ) -> None:
        params = {"period": 20} if policy == "lfu-aging" else {}
        self.keys = key_space(sizes)
        bytes_of = [size * GRAIN for size in capacities]
        self.ledger = Ledger(
            self.keys,
            bytes_of,
            create(policy, **params),
            speculation=speculation * GRAIN,
            wave=wave,  # type: ignore[arg-type]
            provides={"next"},
        )
        self.naive = NaiveLedger(self.keys, bytes_of, policy, speculation * GRAIN, wave, **params)
        self.memory = Memory()
        write = self.memory.write
        base: Mover = (
            ThreadMover(write, channels, blocks, seed)
            if threads
            else VirtualMover(
                1e-3, channels=channels, blocks_of=lambda _: blocks, jitter=jitter, seed=seed, write=write
            )
        )
        self.mover = base
        if failures or delays:
            self.mover = FaultyMover(base, failures=failures, delays=delays, delay_s=5e-4, seed=seed + 1)
        page = SMALL_PAGE
        least = arena_bytes(self.keys, bytes_of, speculation * GRAIN, page=page)
        reserve = arena_bytes(self.keys, [200 * GRAIN, 200 * GRAIN], 100 * GRAIN, page=page)
        budget = least + extra * page
        self.arena = ArenaSlots(self.keys.classes, budget, self.memory, reserve=reserve, page=page)
        self.log: list[Any] = []
        self.residency = Residency(self.ledger, self.mover, self.arena, log=self.log)
        self.open: list[Lease] = []
        self.left: dict[int, set[int]] = {}
        self.lost: dict[int, int] = {}
        self.hands: dict[int, tuple[int, Slot]] = {}
        self.number = 0
        self.load_errors = self.stuck = 0
        self.calm = 0

    # events

    def step(self, number: int) -> None:
        self.number = number
        self.residency.step(number, 1, 1)
        self.naive.step(number)
        self.check()

    def acquire(
        self, layer: int, ids: Sequence[int], next_use: Callable[[int], int] = lambda key: key
    ) -> Lease:
        ids = sorted(ids)
        info = {"next": [self.number * LAYERS + 1 + next_use(key) for key in ids]}
        lease = self.residency.acquire(layer, ids, info)
        expected = self.naive.acquire(layer, ids, info["next"])
        assert tuple(lease.decision) == expected, (tuple(lease.decision), expected)
        self.naive.pin(ids)
        self.open.append(lease)
        self.left[id(lease)], self.lost[id(lease)] = set(ids), 0
        self.check()
        return lease

    def take(self, lease: Lease) -> bool:
        """Take the next expert of a lease. False when it has none left, or cannot go on."""
        mark = id(lease)
        self.hands.pop(mark, None)
        try:
            key, slot = next(lease)
        except StopIteration:
            assert len(self.left[mark]) == self.lost[mark], "a lease ended without some of its experts"
            self.check()
            return False
        except LoadError:
            self.load_errors += 1
            self.lost[mark] += 1
            self.check()
            return True
        except BudgetError:
            assert len(self.open) > 1, "a single lease found no slot"
            self.stuck += 1
            self.check()
            return False
        assert key in self.left[mark], "an expert came twice, or unasked"
        self.left[mark].remove(key)
        self.hands[mark] = key, slot
        self.check()
        return True

    def close_lease(self, lease: Lease) -> None:
        at = self.open.index(lease)
        lease.close()
        self.hands.pop(id(lease), None)
        del self.open[at]
        self.naive.unpin(at)
        self.check()

    def want(self, wants: Iterable[tuple[int, int]]) -> None:
        wants = list(wants)
        self.residency.want(wants)
        placed = self.naive.want(wants)
        assert self.log[-1][:2] == ("want", tuple(placed))
        self.check()

    def set_budget(self, group: int, grains: int) -> None:
        decision = self.residency.set_budget(group, grains * GRAIN)
        assert decision.evicted == self.naive.set_budget(group, grains * GRAIN)
        self.check()

    def set_speculation(self, grains: int) -> None:
        decision = self.residency.set_speculation(grains * GRAIN)
        assert decision.cancelled == self.naive.set_speculation(grains * GRAIN)
        self.check()

    def discard(self, ids: Sequence[int]) -> None:
        decision = self.residency.discard(ids)
        assert (decision.evicted, decision.cancelled) == self.naive.discard(ids)
        self.check()

    def advance(self, seconds: float) -> None:
        self.mover.advance(seconds)
        self.check()

    def check(self) -> None:
        """Everything that must hold between two events."""
        self.residency.check_integrity()
        for group in range(self.keys.group_count):
            assert self.ledger.cached(group) == set(self.naive.cached[group])
        assert list(self.ledger.staged) == [key for key, _ in self.naive.stage]
        assert self.arena.committed == len(self.memory.pages)
        for key, slot in self.hands.values():
            assert self.memory.holds(slot, key), "a slot in hand does not hold its expert"

    def finish(self) -> None:
        """Close everything; nothing may be left over."""
        for lease in list(self.open):
            self.close_lease(lease)
        self.residency.close()
        assert not self.arena.occupants()
        assert self.arena.live == 0
        self.mover.close()

    # random play

    def random_ids(self, rng: random.Random, layer: int) -> list[int]:
        keys = sorted(self.keys.keys_of[layer])
        return sorted(rng.sample(keys, rng.choice([1, 2, 3, 3, 3, 5, len(keys)])))

    def random_event(self, rng: random.Random) -> None:
        """One event. What is drawn never depends on timing, so two rigs with one seed see the same events."""
        what = rng.random()
        if what < 0.72:
            self._random_lease(rng)
        elif what < 0.86:
            now = self.ledger.tick
            everything = len(self.keys.resident)
            self.want(
                [(rng.randrange(everything), now + rng.randint(0, 4)) for _ in range(rng.randint(1, 5))]
            )
        elif what < 0.91:
            self.set_budget(rng.randrange(2), rng.choice([0, 2, 9, 14, 30, 60]))
        elif what < 0.94:
            self.set_speculation(rng.choice([0, 3, 6, 12]))
        elif what < 0.95:
            self.discard(rng.sample(range(len(self.keys.resident)), 5))
        else:
            self.advance(rng.choice([1e-4, 1e-3, 1e-2]))

    def _random_lease(self, rng: random.Random) -> None:
        layer = rng.randrange(LAYERS)
        if layer == 0:
            self.step(self.number + 1)
        table = [rng.randint(0, 40) for _ in self.keys.resident]
        lease = self.acquire(layer, self.random_ids(rng, layer), table.__getitem__)
        most = rng.choice([0, 1, 99, 99, 99, 99])
        shrink = rng.choice([None] * 12 + [0, 5, 20])
        pause = rng.choice([0.0, 0.0, 1e-3])
        for taken in range(most):
            if not self.take(lease):
                break
            if taken == 0 and shrink is not None:
                self.set_budget(0, shrink)
            if pause:
                self.advance(pause)
        self.close_lease(lease)


def by_hand(
    slots: int, *, experts: int = 8, speculation: int = 0, **options: Any
) -> tuple[Residency, ByHand]:
    """One layer, slots of one page each, so that the arena holds exactly slots + speculation + 1."""
    keys = KeySpace.uniform(1, experts, SMALL_PAGE, 1000)
    ledger = Ledger(keys, [slots * SMALL_PAGE], create("lru"), speculation=speculation * SMALL_PAGE)
    budget = arena_bytes(keys, ledger.capacities, ledger.speculation, page=SMALL_PAGE)
    assert budget == (slots + speculation + 1) * SMALL_PAGE
    mover = ByHand()
    arena = ArenaSlots(keys.classes, budget, NullBacking(), reserve=2 * budget, page=SMALL_PAGE)
    return Residency(ledger, mover, arena, **options), mover

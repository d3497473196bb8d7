"""The same requests give the same decisions whatever the timing, in virtual time and with threads."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from helpers_movers import SMALL_PAGE, Memory, ThreadMover
from locum.errors import LoadError
from locum.policy import EVICTION, create
from locum.policy.base import NEVER
from locum.policy.prefetch import PREFETCH, Prediction
from locum.policy.prefetch import create as create_prefetch
from locum.residency.keys import GRAIN, KeySpace
from locum.residency.ledger import Ledger
from locum.residency.mover.base import Mover
from locum.residency.mover.faulty import FaultyMover
from locum.residency.mover.virtual import VirtualMover
from locum.residency.residency import Residency, arena_bytes
from locum.residency.slots import ArenaSlots

LAYERS, EXPERTS, K, STEPS = 4, 12, 3, 25

Trace = list[list[list[int]]]


def make_trace(seed: int) -> Trace:
    """[step][layer] -> keys: sticky experts, and a prefill step that is too large for the cache."""
    rng = random.Random(seed)
    trace: Trace = []
    for step in range(STEPS):
        row = []
        for layer in range(LAYERS):
            most = EXPERTS if step % 12 == 0 else K
            before = [key for key in trace[-1][layer] if rng.random() < 0.5] if step % 12 > 1 else []
            fresh = rng.sample(range(layer * EXPERTS, (layer + 1) * EXPERTS), most)
            row.append(sorted(dict.fromkeys([*before, *fresh]))[:most])
        trace.append(row)
    return trace


def next_uses(trace: Trace) -> dict[tuple[int, int], int]:
    """(tick, key) -> tick of the next use."""
    following: dict[tuple[int, int], int] = {}
    seen: dict[int, int] = {}
    for step in reversed(range(STEPS)):
        for layer in reversed(range(LAYERS)):
            tick = step * LAYERS + layer
            for key in trace[step][layer]:
                following[tick, key] = seen.get(key, NEVER)
                seen[key] = tick
    return following


def run(
    seed: int, eviction: str, prefetch: str, wave: str, mover_of: Callable[[Memory], Mover]
) -> tuple[list[Any], Residency]:
    """The engine's program order, with a noisy prediction and some abandoned leases."""
    trace, rng = make_trace(seed), random.Random(seed + 1)
    following = next_uses(trace)
    keys = KeySpace.uniform(LAYERS, EXPERTS, 3 * GRAIN, groups=[0, 1, 1, 1])
    capacities = [EXPERTS * 3 * GRAIN, 9 * 3 * GRAIN]
    ledger = Ledger(
        keys,
        capacities,
        create(eviction),
        speculation=4 * 3 * GRAIN,
        wave=wave,  # type: ignore[arg-type]
        provides={"next"},
    )
    memory, log = Memory(), list[Any]()
    budget = arena_bytes(keys, capacities, ledger.speculation, page=SMALL_PAGE)
    mover = mover_of(memory)
    arena = ArenaSlots(keys.classes, budget, memory, page=SMALL_PAGE)
    residency = Residency(ledger, mover, arena, log=log)
    prefetcher = create_prefetch(prefetch)
    for step, row in enumerate(trace):
        residency.step(step, int(step % 12 != 0), 1)
        for layer, ids in enumerate(row):
            tick = step * LAYERS + layer
            predictions = [
                Prediction(tick + d, guess, [rng.randint(0, 4) / 4 for _ in guess])
                for d in range(1, 1 + prefetcher.distance)
                if layer + d < LAYERS
                for guess in [[(key + (rng.random() < 0.2)) % (LAYERS * EXPERTS) for key in row[layer + d]]]
            ]
            most = rng.choice([0, 1, 99, 99, 99, 99, 99])
            with residency.acquire(layer, ids, {"next": [following[tick, key] for key in ids]}) as lease:
                if predictions:
                    residency.want(prefetcher.wants(predictions))
                consume(lease, memory, most)
            mover.advance(1e-4)
    residency.check_integrity()
    residency.close()
    mover.close()
    return log, residency


def consume(lease: Any, memory: Memory, most: int) -> None:
    """Take up to `most` experts; a failed one is passed over."""
    for _ in range(most):
        try:
            key, slot = next(lease)
        except StopIteration:
            return
        except LoadError:
            continue
        assert memory.holds(slot, key)


MOVERS: dict[str, Callable[[Memory], Mover]] = {
    "jitter": lambda m: VirtualMover(
        1e-3, channels=3, jitter=5.0, seed=5, write=m.write, blocks_of=lambda _: 2
    ),
    "slow and faulty": lambda m: FaultyMover(
        VirtualMover(0.1, write=m.write), failures=0.3, delays=0.3, seed=2
    ),
    "threads and faults": lambda m: FaultyMover(ThreadMover(m.write, 3, 2, seed=4), failures=0.1, seed=3),
}

SETTINGS = list(itertools.product(sorted(EVICTION), sorted(PREFETCH), ["rank", "bypass"]))


@pytest.mark.parametrize(("eviction", "prefetch", "wave"), SETTINGS)
def test_timing_changes_no_decision(eviction: str, prefetch: str, wave: str) -> None:
    expected, residency = run(1, eviction, prefetch, wave, lambda m: VirtualMover(1e-3, write=m.write))
    stats = residency.ledger.stats
    assert stats.hits
    assert stats.misses
    assert stats.streamed
    assert bool(stats.staged) == (prefetch != "none")
    for name, mover_of in MOVERS.items():
        log, other = run(1, eviction, prefetch, wave, mover_of)
        assert log == expected, name
        assert other.ledger.stats == stats


@pytest.mark.check
@pytest.mark.parametrize("seed", range(2, 12))
def test_timing_changes_no_decision_on_more_traces(seed: int) -> None:
    for eviction, prefetch, wave in SETTINGS:
        expected, _ = run(seed, eviction, prefetch, wave, lambda m: VirtualMover(1e-3, write=m.write))
        for name, mover_of in MOVERS.items():
            assert run(seed, eviction, prefetch, wave, mover_of)[0] == expected, (
                name,
                eviction,
                prefetch,
                wave,
            )

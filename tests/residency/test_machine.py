"""Any events in any order, with faults and delays: nothing breaks and no decision changes."""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from helpers_ledger import SCORED
from helpers_residency import LAYERS, Rig


class ResidencyMachine(RuleBasedStateMachine):
    """`Rig` checks everything after each event; up to two leases are open at a time."""

    rig: Rig

    @initialize(
        sizes=st.sampled_from([(3,), (4,), (3, 5), (2, 9)]),
        capacities=st.tuples(st.integers(0, 60), st.integers(0, 30)),
        speculation=st.sampled_from([0, 5, 12]),
        wave=st.sampled_from(["rank", "bypass"]),
        policy=st.sampled_from(SCORED),
        failures=st.sampled_from([0.0, 0.1, 0.6]),
        delays=st.sampled_from([0.0, 0.3]),
        channels=st.integers(1, 3),
        blocks=st.integers(1, 3),
        extra=st.integers(0, 3),
        seed=st.integers(0, 1000),
    )
    def make(self, **options: object) -> None:
        self.rig = Rig(jitter=4.0, **options)  # type: ignore[arg-type]

    @rule()
    def step(self) -> None:
        self.rig.step(self.rig.number + 1)

    @precondition(lambda self: len(self.rig.open) < 2)
    @rule(data=st.data(), layer=st.integers(0, LAYERS - 1), shift=st.integers(0, 9))
    def open(self, data: st.DataObject, layer: int, shift: int) -> None:
        ids = data.draw(st.sets(st.sampled_from(sorted(self.rig.keys.keys_of[layer])), min_size=1))
        self.rig.acquire(layer, sorted(ids), lambda key: (key * 7 + shift) % 31)

    @precondition(lambda self: self.rig.open)
    @rule(data=st.data(), most=st.sampled_from([1, 2, 50]))
    def take(self, data: st.DataObject, most: int) -> None:
        lease = data.draw(st.sampled_from(self.rig.open))
        for _ in range(most):
            if not self.rig.take(lease):
                break

    @precondition(lambda self: self.rig.open)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.rig.close_lease(data.draw(st.sampled_from(self.rig.open)))

    @rule(data=st.data())
    def want(self, data: st.DataObject) -> None:
        key = st.integers(0, len(self.rig.keys.resident) - 1)
        wants = data.draw(st.lists(st.tuples(key, st.integers(0, 4)), max_size=5))
        self.rig.want([(key, self.rig.ledger.tick + ahead) for key, ahead in wants])

    @rule(group=st.integers(0, 1), grains=st.integers(0, 60))
    def set_budget(self, group: int, grains: int) -> None:
        self.rig.set_budget(group, grains)

    @rule(grains=st.integers(0, 15))
    def set_speculation(self, grains: int) -> None:
        self.rig.set_speculation(grains)

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        keys = st.sets(st.integers(0, len(self.rig.keys.resident) - 1), max_size=4)
        self.rig.discard(sorted(data.draw(keys)))

    @rule(seconds=st.sampled_from([1e-4, 2e-3, 1.0]))
    def compute(self, seconds: float) -> None:
        self.rig.advance(seconds)

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.finish()


ResidencyMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestResidency = ResidencyMachine.TestCase


def play(seed: int, events: int, *, threads: bool = False) -> Rig:
    """`events` random events on a rig of random make."""
    rng = random.Random(seed)
    rig = Rig(
        sizes=rng.choice([(3,), (4,), (3, 5), (2, 9)]),
        speculation=rng.choice([0, 6, 12]),
        wave=rng.choice(["rank", "bypass"]),
        policy=rng.choice(SCORED),
        failures=rng.choice([0.0, 0.1, 0.5]),
        delays=rng.choice([0.0, 0.2]),
        jitter=rng.choice([0.0, 5.0]),
        channels=rng.choice([1, 3]),
        blocks=rng.choice([1, 3]),
        extra=rng.choice([0, 3]),
        seed=seed,
        threads=threads,
    )
    for _ in range(events):
        rig.random_event(rng)
    rig.finish()
    return rig


def test_random_play_meets_every_hardship() -> None:
    rigs = [play(seed, 100) for seed in range(16)]
    assert sum(rig.arena.relocations for rig in rigs) > 10
    assert sum(rig.load_errors for rig in rigs) > 10
    assert sum(rig.residency.physical.retries for rig in rigs) > 10
    assert sum(rig.ledger.stats.streamed for rig in rigs) > 10
    assert sum(rig.ledger.stats.wasted for rig in rigs) > 10


@pytest.mark.parametrize("seed", range(3))
def test_real_threads_decide_as_virtual_time_does(seed: int) -> None:
    assert play(seed, 60, threads=True).log == play(seed, 60).log


@pytest.mark.check
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", [range(start, start + 40) for start in range(1000, 1400, 40)], ids=str)
def test_a_hundred_thousand_random_events(seeds: range) -> None:
    """Ten ranges of 40 plays of 250 events: run all for 10^5, or one to look closer."""
    for seed in seeds:
        play(seed, 250)

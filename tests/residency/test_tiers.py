"""The shape of what is to come: two sizes, two levels, three tiers, budgets that shrink while running.

Disk -> host -> device is two Residencies. The upper one's loads name, as `after`, the ticket of the lower
one's load. The driver below is what a device room would do: decide above, lease below, copy, hold the lower
lease until the copies have ended. Levels are pieces of a nested precision: a request for the second level
asks for both pieces, and each piece is a key of its own size.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from helpers_ledger import NaiveLedger
from helpers_movers import SMALL_PAGE, Memory
from helpers_residency import EXPERTS, LAYERS, key_space
from locum.errors import LoadError
from locum.policy import create
from locum.residency.keys import GRAIN
from locum.residency.ledger import Ledger
from locum.residency.mover.base import Mover, Ticket
from locum.residency.mover.faulty import FaultyMover
from locum.residency.mover.virtual import VirtualClock, VirtualMover
from locum.residency.residency import Residency, arena_bytes
from locum.residency.slots import ArenaSlots

SIZES = (2, 5)


class Tier:
    """One memory, with its Residency and the naive Ledger it must agree with."""

    def __init__(self, grains: int, mover: Mover, memory: Memory, source: Any = None) -> None:
        self.keys = key_space(SIZES, (0,) * LAYERS)
        self.memory, self.log = memory, list[Any]()
        ledger = Ledger(self.keys, [grains * GRAIN], create("lru"))
        budget = arena_bytes(self.keys, ledger.capacities, page=SMALL_PAGE)
        arena = ArenaSlots(self.keys.classes, budget, memory, page=SMALL_PAGE)
        self.residency = Residency(ledger, mover, arena, log=self.log, source=source)
        self.naive = NaiveLedger(self.keys, ledger.capacities, "lru", 0, "rank")

    def step(self, number: int) -> None:
        self.residency.step(number, 1, 1)
        self.naive.step(number)

    def decide(self, layer: int, ids: list[int]) -> Any:
        lease = self.residency.decide(layer, ids)
        assert tuple(lease.decision) == self.naive.acquire(layer, ids, [0] * len(ids))
        self.naive.pin(ids)
        return lease

    def close(self, lease: Any) -> None:
        lease.close()
        self.naive.unpin(0)
        self.residency.check_integrity()

    def shrink(self, grains: int) -> None:
        evicted = self.residency.set_budget(0, grains * GRAIN).evicted
        assert evicted == self.naive.set_budget(0, grains * GRAIN)
        self.residency.check_integrity()


class Machine:
    """Three tiers on one clock. A copy to the device checks that the host still has the bytes."""

    def __init__(
        self, host: int, device: int, *, failures: float, jitter: float, channels: int, seed: int
    ) -> None:
        self.clock = VirtualClock()
        host_memory, device_memory = Memory(), Memory()
        shared: dict[str, Any] = {"clock": self.clock, "jitter": jitter, "seed": seed}
        disk = VirtualMover(3e-3, channels=channels, blocks_of=lambda _: 2, write=host_memory.write, **shared)
        link = VirtualMover(1e-3, write=self._copy(host_memory, device_memory), **shared)
        self.host = Tier(host, FaultyMover(disk, failures=failures, seed=seed), host_memory)
        self.device = Tier(
            device,
            FaultyMover(link, failures=failures, seed=seed + 1),
            device_memory,
            self.host.residency.ensure,
        )
        self.copies = self.errors = 0

    def _copy(self, source: Memory, target: Memory) -> Any:
        def write(ticket: Ticket, last: bool) -> None:
            if last:
                entry = self.host.residency.entries[ticket.key]
                assert source.holds(entry.slot, ticket.key), "copied what was not there"
                self.copies += 1
            target.write(ticket, last)

        return write

    def chunks(self, ids: Sequence[int]) -> Iterator[list[int]]:
        """As many ids at a time as the host can hold together."""
        room, chunk, used = self.host.residency.ledger.capacities[0], list[int](), 0
        for key in ids:
            size = self.host.keys.resident[key]
            if chunk and used + size > room:
                yield chunk
                chunk, used = [], 0
            chunk.append(key)
            used += size
        yield chunk

    def use(self, layer: int, ids: Sequence[int], most: int, shrink: tuple[str, int] | None) -> None:
        """Compute with `most` of `ids` on the device, shrinking a budget in the middle."""
        for chunk in self.chunks(ids):
            above, below = self.device.decide(layer, chunk), self.host.decide(layer, chunk)
            below.start()
            above.start()
            for taken in range(most):
                try:
                    key, slot = next(above)
                except StopIteration:
                    break
                except LoadError:
                    self.errors += 1
                    continue
                assert self.device.memory.holds(slot, key)
                if shrink is not None and taken == 0:
                    getattr(self, shrink[0]).shrink(shrink[1])
                    shrink = None
                assert self.device.memory.holds(slot, key)
            self.device.close(above)
            self._let_copies_end(chunk)
            self.host.close(below)

    def _let_copies_end(self, chunk: Sequence[int]) -> None:
        """The host's slots may go only when nothing reads them any more."""
        entries = self.device.residency.entries
        while True:
            here = [entries[key].ticket for key in chunk if key in entries]
            running = [ticket for ticket in here if ticket is not None and not ticket.terminal]
            if not running:
                return
            self.device.residency.mover.wait_any(running)

    def pages(self) -> tuple[int, int]:
        """Pages committed on host and device."""
        return len(self.host.memory.pages), len(self.device.memory.pages)


def run(seed: int, **timing: Any) -> Machine:
    rng = random.Random(seed)
    machine = Machine(host=60, device=24, seed=seed, **timing)
    for step in range(40):
        machine.host.step(step)
        machine.device.step(step)
        for layer in range(LAYERS):
            experts = sorted(rng.sample(range(EXPERTS), rng.choice([1, 2, 3, 6])))
            both_levels = rng.random() < 0.4
            base, more = layer * EXPERTS, (LAYERS + layer) * EXPERTS
            ids = [base + expert for expert in experts] + [more + expert for expert in experts if both_levels]
            shrink = None
            if layer == 1 and step in (10, 20, 30):
                shrink = ("host", 60 - step) if step < 30 else ("device", 7)
            machine.use(layer, ids, rng.choice([0, 1, 99, 99, 99]), shrink)
    return machine


@pytest.mark.parametrize("seed", range(4))
def test_two_sizes_two_levels_three_tiers_and_shrinking_budgets(seed: int) -> None:
    calm = run(seed, failures=0.0, jitter=0.0, channels=2)
    rough = run(seed, failures=0.25, jitter=5.0, channels=1)
    assert (calm.host.log, calm.device.log) == (rough.host.log, rough.device.log)
    assert calm.errors == 0
    for machine in (calm, rough):
        for tier in (machine.host, machine.device):
            arena = tier.residency.arena
            arena.settle()
            assert not arena.unsettled
            assert len(tier.memory.pages) == arena.committed <= arena.budget
        assert machine.copies > 100
        assert machine.device.residency.physical.stall_s > 0
        machine.device.residency.close()
        machine.host.residency.close()
    assert rough.host.residency.physical.retries + rough.device.residency.physical.retries > 20

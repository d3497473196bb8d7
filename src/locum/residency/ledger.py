"""The Ledger: what is kept, as a pure function of events in program order.

It never sees time, slots, tickets, threads or the order of arrival, and nothing physical feeds back into
it. So the same events give the same decisions in the simulator and on any machine.

*Cached* means owned, whether the bytes have landed or not. Capacities are bytes per group of layers.
Speculation has a small pool of bytes of its own and never evicts from the cache.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import ge
from typing import Any, Literal

from locum.errors import PolicyError, UsageError
from locum.policy.base import EvictionPolicy, Info, PolicyFactory, Scope, require
from locum.residency.decision import Decision, Event, Stats
from locum.residency.keys import KeySpace

Wave = Literal["rank", "bypass"]
"""What happens when a request does not fit beside what must stay. `rank`: residents and requested
compete, and requested losers are streamed. `bypass`: residents stay, new ones fill what room there is, the
rest is streamed."""


@dataclass(slots=True)
class _Group:
    """One budget: who is cached, the bytes they take, the bytes they may take."""

    capacity: int
    policy: EvictionPolicy
    cached: set[int] = field(default_factory=set)
    used: int = 0


class Ledger:
    """Decisions over `keys`, one capacity in bytes per group. See the module's docstring.

    `policy` makes one eviction policy per group. `speculation` is the size of the pool in bytes. `provides`
    names what `info` will hold. Raises `UsageError` when the policy needs more than that, or a number makes
    no sense.
    """

    def __init__(
        self,
        keys: KeySpace,
        capacities: Sequence[int],
        policy: PolicyFactory,
        *,
        speculation: int = 0,
        wave: Wave = "rank",
        provides: Collection[str] = (),
    ) -> None:
        if len(capacities) != keys.group_count or min(capacities) < 0 or speculation < 0:
            raise UsageError(
                "one capacity per group, none negative", allowed=f"{keys.group_count} groups", got=capacities
            )
        if wave not in ("rank", "bypass"):
            raise UsageError("no such wave mode", allowed="rank or bypass", got=wave)
        self.keys, self.wave, self.speculation = keys, wave, speculation
        self.stats = Stats()
        self.log: Callable[[Event], object] | None = None
        """Hears every event once it has been dealt with."""
        self.tick = -1
        """The logical clock: step * layers + layer of the newest acquire."""
        self._step = 0
        self._sizes = keys.resident
        self._groups = [self._group(number, capacity, policy) for number, capacity in enumerate(capacities)]
        for group in self._groups:
            require(getattr(policy, "name", type(group.policy).__name__), group.policy.needs, provides)
        self._of_layer = [self._groups[number] for number in keys.groups]
        self._stage: dict[int, int] = {}
        self._stage_used = 0
        self._pins: list[Sequence[int]] = []
        self._on_request = self._overriding("request")
        self._on_step = self._overriding("step")
        self._on_forecast = self._overriding("forecast")

    def _group(self, number: int, capacity: int, policy: PolicyFactory) -> _Group:
        keys = self.keys
        return _Group(capacity, policy(Scope(number, capacity, keys.resident, keys.layer_of, keys.layers)))

    def _overriding(self, name: str) -> list[EvictionPolicy]:
        """The policies that care for an optional event: the others cost nothing."""
        base = getattr(EvictionPolicy, name)
        return [g.policy for g in self._groups if getattr(type(g.policy), name, base) is not base]

    # events that change no residency

    def request(self, request: int, begin: bool) -> None:
        """A request begins or ends."""
        for policy in self._on_request:
            policy.request(request, begin)
        if self.log is not None:
            self.log(("request", request, begin))

    def step(self, number: int, phase: int, tokens: int) -> None:
        """Forward step `number` begins, with `tokens` tokens. `phase`: 0 prefill, 1 decode."""
        self._step = number
        for policy in self._on_step:
            policy.step(number, phase, tokens)
        if self.log is not None:
            self.log(("step", number, phase, tokens))

    def forecast(self, ahead: int, layer: int, ids: Sequence[int], confidence: Sequence[float]) -> None:
        """`ids` are expected in `layer`, `ahead` steps from now."""
        for policy in self._on_forecast:
            policy.forecast(ahead, layer, ids, confidence)
        if self.log is not None and self._on_forecast:
            self.log(("forecast", ahead, layer, tuple(ids), tuple(confidence)))

    def pin(self, ids: Sequence[int]) -> None:
        """A lease on `ids` opens: protect them until `unpin` with the same object."""
        self._pins.append(ids)

    def unpin(self, ids: Sequence[int]) -> None:
        """The lease on `ids` closes."""
        self._pins = [pinned for pinned in self._pins if pinned is not ids]

    # events that change residency

    def acquire(self, layer: int, ids: Sequence[int], info: Info | None = None) -> Decision:
        """`layer` asks for `ids`, unique and ascending keys of its own. Classified against the state before.

        Raises `PolicyError` when the ids are not that, or when the eviction policy breaks its contract.
        """
        decision = self._acquire(layer, ids, info)
        if self.log is not None:
            counts = None if info is None or "counts" not in info else tuple(info["counts"])
            self.log(("acquire", layer, tuple(ids), decision, counts))
        return decision

    def _acquire(self, layer: int, ids: Sequence[int], info: Info | None) -> Decision:
        if not self.keys.keys_of[layer].issuperset(ids) or any(map(ge, ids, ids[1:])):
            raise PolicyError(
                "an acquire takes unique, ascending keys of its own layer",
                where=f"layer {layer}",
                got=list(ids),
            )
        group = self._of_layer[layer]
        tick = self.tick = self._step * self.keys.layers + layer
        cached, stage, stats = group.cached, self._stage, self.stats
        if cached.issuperset(ids):
            group.policy.use(tick, layer, ids, (), info)
            stats.hits += len(ids)
            return Decision(list(ids), [], [], [], [], self._overdue() if stage else [])
        hits = [key for key in ids if key in cached]
        new = [key for key in ids if key not in cached]
        staged = [key for key in new if key in stage] if stage else []
        misses = [key for key in new if key not in stage] if staged else new
        for key in staged:
            self._unstage(key)
        evicted, streamed = self._admit(group, ids, hits, new, info)
        stats.hits += len(hits)
        stats.staged += len(staged)
        stats.misses += len(misses)
        stats.evicted += len(evicted)
        stats.streamed += len(streamed)
        return Decision(hits, staged, misses, evicted, streamed, self._overdue() if stage else [])

    def want(self, wants: Iterable[tuple[int, int]]) -> list[int]:
        """Speculate on (key, due tick), best first. Returns the keys that get a place now.

        Skipped: what is cached or staged already, is due no later than the present tick, or does not fit.
        Raises `PolicyError` for something that is not a key.
        """
        placed, dues = [], []
        for key, due in wants:
            size = self._sizes[key] if 0 <= key < len(self._sizes) else 0
            if not size:
                raise PolicyError("the prefetch policy wants something that is not a key", got=key)
            if self._stage_used + size > self.speculation or due <= self.tick or self.owns(key):
                continue
            self._stage[key] = due
            self._stage_used += size
            placed.append(key)
            dues.append(due)
        if self.log is not None:
            self.log(("want", tuple(placed), tuple(dues)))
        return placed

    def set_budget(self, group: int, capacity: int) -> Decision:
        """`group` may keep `capacity` bytes from now on; what no longer fits is evicted at once.

        Pinned experts go last: only when they alone exceed the new capacity.
        """
        if capacity < 0:
            raise UsageError("a capacity cannot be negative", where=f"group {group}", got=capacity)
        state = self._groups[group]
        state.capacity = capacity
        state.policy.resize(capacity)
        evicted: list[int] = []
        over = state.used - capacity
        if over > 0:
            pinned = self._pinned(state)
            fits = sum(self._sizes[key] for key in pinned) <= capacity
            evicted = self._victims(state, over, pinned if fits else frozenset())
            self.stats.evicted += len(evicted)
        return self._said(("set_budget", group, capacity), Decision([], [], [], evicted, [], []))

    def _said(self, event: Event, decision: Decision) -> Decision:
        if self.log is not None:
            self.log((*event, decision))
        return decision

    def set_speculation(self, capacity: int) -> Decision:
        """The pool may hold `capacity` bytes from now on; the newest wants go first."""
        if capacity < 0:
            raise UsageError("a capacity cannot be negative", where="the speculation pool", got=capacity)
        self.speculation = capacity
        cancelled = []
        for key in reversed(list(self._stage)):
            if self._stage_used <= capacity:
                break
            self._unstage(key)
            cancelled.append(key)
        self.stats.wasted += len(cancelled)
        return self._said(("set_speculation", capacity), Decision([], [], [], [], [], cancelled))

    def discard(self, ids: Sequence[int]) -> Decision:
        """Nobody will ask for `ids` again, as when a model is closed: they leave the cache and the pool."""
        evicted, cancelled = [], []
        for key in ids:
            group = self._groups[self.keys.group_of(key)]
            if key in group.cached:
                group.policy.drop(key)
                group.cached.discard(key)
                group.used -= self._sizes[key]
                evicted.append(key)
            elif key in self._stage:
                self._unstage(key)
                cancelled.append(key)
        self.stats.evicted += len(evicted)
        self.stats.wasted += len(cancelled)
        return self._said(("discard", tuple(ids)), Decision([], [], [], evicted, [], cancelled))

    # questions

    def owns(self, key: int) -> bool:
        """True for what is cached or staged."""
        return key in self._stage or key in self._groups[self.keys.group_of(key)].cached

    def cached(self, group: int) -> frozenset[int]:
        """The keys cached in a group."""
        return frozenset(self._groups[group].cached)

    @property
    def staged(self) -> tuple[int, ...]:
        """The speculated keys, oldest first."""
        return tuple(self._stage)

    @property
    def capacities(self) -> tuple[int, ...]:
        """Bytes per group."""
        return tuple(group.capacity for group in self._groups)

    def state(self) -> dict[str, Any]:
        """All that the Ledger knows, as a JSON value: see `restore`. No lease may be open."""
        assert not self._pins, "a lease is open"
        return {
            "step": self._step,
            "tick": self.tick,
            "speculation": self.speculation,
            "stage": list(self._stage.items()),
            "groups": [
                {"capacity": group.capacity, "cached": sorted(group.cached), "policy": group.policy.state()}
                for group in self._groups
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the Ledger would whose `state` this is. Only before any event; counts start at nothing.

        Raises `UsageError` when that one has other capacities, `ValueError` for experts that cannot be there.
        """
        theirs = [group["capacity"] for group in state["groups"]]
        if theirs != list(self.capacities) or state["speculation"] != self.speculation:
            raise UsageError(
                "the cache that is to be taken up has another size",
                allowed=f"{list(self.capacities)} and {self.speculation} bytes ahead",
                got=f"{theirs} and {state['speculation']}",
            )
        self._step, self.tick = state["step"], state["tick"]
        self._stage = dict(state["stage"])
        self._stage_used = sum(self._sizes[key] for key in self._stage)
        for group, saved in zip(self._groups, state["groups"], strict=True):
            group.cached = set(saved["cached"])
            group.used = sum(self._sizes[key] for key in group.cached)
            group.policy.restore(saved["policy"])
        self._check_restored()

    def _check_restored(self) -> None:
        known = {key for keys in self.keys.keys_of for key in keys}
        for number, group in enumerate(self._groups):
            strange = [k for k in group.cached if k not in known or self.keys.group_of(k) != number]
            if strange or group.used > group.capacity:
                raise ValueError(f"group {number} holds {group.used} bytes, {strange} among them")
        if not known.issuperset(self._stage) or self._stage_used > self.speculation:
            raise ValueError(f"{sorted(self._stage)} are read ahead, {self._stage_used} bytes")

    def check_integrity(self) -> None:
        """Assert what must hold between any two events."""
        sizes = self._sizes
        for number, group in enumerate(self._groups):
            assert group.used == sum(sizes[key] for key in group.cached), "bytes cached are miscounted"
            assert group.used <= group.capacity, "a group exceeds its capacity"
            assert all(self.keys.group_of(key) == number for key in group.cached), (
                "a key is in another's group"
            )
            assert not group.cached.intersection(self._stage), "a key is cached and staged"
        assert self._stage_used == sum(sizes[key] for key in self._stage), "bytes staged are miscounted"
        assert self._stage_used <= self.speculation, "the speculation pool exceeds its size"
        assert all(due > self.tick for due in self._stage.values()), "an overdue speculation was kept"

    # how

    def _admit(
        self, group: _Group, ids: Sequence[int], hits: list[int], new: list[int], info: Info | None
    ) -> tuple[list[int], list[int]]:
        """Let `new` in, making room as the wave mode says. Returns (evicted, streamed)."""
        sizes, tick, policy = self._sizes, self.tick, group.policy
        layer = self.keys.layer_of[ids[0]]
        too_large = [key for key in new if sizes[key] > group.capacity]
        if too_large:
            new = [key for key in new if sizes[key] <= group.capacity]
        arriving = sum(sizes[key] for key in new)
        over = group.used + arriving - group.capacity
        if over <= 0:
            policy.use(tick, layer, ids, new, info)
            self._enter(group, new, arriving)
            return [], too_large
        pinned = self._pinned(group)
        protected = pinned.union(ids)
        staying = sum(sizes[key] for key in pinned.union(hits))
        if over <= group.used - staying:
            policy.use(tick, layer, ids, new, info)
            evicted = self._victims(group, over, protected)
            self._enter(group, new, arriving)
            return evicted, too_large
        if self.wave == "bypass":
            fitting = self._fitting(group.capacity - group.used, new)
            policy.use(tick, layer, ids, fitting, info)
            self._enter(group, fitting, sum(sizes[key] for key in fitting))
            return [], sorted(set(new).difference(fitting).union(too_large))
        policy.use(tick, layer, ids, new, info)
        self._enter(group, new, arriving)
        leaving = self._victims(group, over, pinned)
        requested = set(ids)
        streamed = sorted(requested.intersection(leaving).union(too_large))
        return [key for key in leaving if key not in requested], streamed

    def _fitting(self, room: int, new: Sequence[int]) -> list[int]:
        """Those of `new`, in order, that fit in `room` bytes together."""
        fitting = []
        for key in new:
            if self._sizes[key] <= room:
                room -= self._sizes[key]
                fitting.append(key)
        return fitting

    @staticmethod
    def _enter(group: _Group, new: Sequence[int], size: int) -> None:
        group.cached.update(new)
        group.used += size

    def _pinned(self, group: _Group) -> frozenset[int]:
        """What open leases protect of this group's residents."""
        return (
            frozenset(group.cached.intersection(chain.from_iterable(self._pins)))
            if self._pins
            else frozenset()
        )

    def _victims(self, group: _Group, need: int, protected: Collection[int]) -> list[int]:
        """Ask the policy, check the answer, take the victims out. Raises `PolicyError`."""
        chosen = group.policy.victims(need, protected)
        freed = sum(self._sizes[key] for key in chosen)
        legal = group.cached.issuperset(chosen) and not any(key in protected for key in chosen)
        if freed < need or not legal or len(set(chosen)) != len(chosen):
            raise PolicyError(
                f"{type(group.policy).__name__}.victims broke its contract",
                allowed=f"{need} bytes of unprotected residents, each once",
                got=f"{chosen} ({freed} bytes)",
            )
        group.cached.difference_update(chosen)
        group.used -= freed
        return chosen

    def _unstage(self, key: int) -> None:
        del self._stage[key]
        self._stage_used -= self._sizes[key]

    def _overdue(self) -> list[int]:
        """Take out and return what was due by now."""
        overdue = [key for key, due in self._stage.items() if due <= self.tick]
        for key in overdue:
            self._unstage(key)
        self.stats.wasted += len(overdue)
        return overdue

"""The Ledger once more, as plainly as it can be said: lists, scans, and histories instead of state."""

from collections.abc import Iterable, Sequence

from locum.residency.keys import KeySpace

SCORED = ("lru", "lfu", "lfu-aging", "belady")
"""Policies that rank residents by a score, which the naive Ledger works out from the whole history."""


class NaivePolicy:
    """Scores computed from the whole history of uses at every question."""

    def __init__(self, name: str, sizes: Sequence[int], period: int = 0) -> None:
        self.name, self.sizes, self.period = name, sizes, period
        self.history: list[tuple[int, int]] = []
        self.halved_at: list[int] = []

    def use(self, ids: Sequence[int], following: Sequence[int]) -> None:
        last = self.halved_at[-1] if self.halved_at else 0
        if self.period and len(self.history) >= last + self.period:
            self.halved_at.append(len(self.history))
        self.history += zip(ids, following, strict=True)

    def rank(self, key: int) -> tuple[float, int, int]:
        """(score, stamp, key): the smallest leaves first."""
        at = [place for place, (used, _) in enumerate(self.history) if used == key]
        if self.name == "lru":
            return 0, at[-1], key
        if self.name == "belady":
            return -self.history[at[-1]][1], at[-1], key
        count = 0
        for place in range(len(self.history)):
            if place in self.halved_at:
                count //= 2
            count += self.history[place][0] == key
        return count, at[-1], key

    def worst(self, need: int, candidates: Iterable[int]) -> list[int]:
        chosen, freed = [], 0
        for key in sorted(candidates, key=self.rank):
            if freed >= need:
                break
            chosen.append(key)
            freed += self.sizes[key]
        return chosen


class NaiveLedger:
    """Events and answers as `Ledger`; `cached` is one list per group, `stage` a list of (key, due)."""

    def __init__(
        self,
        keys: KeySpace,
        capacities: Sequence[int],
        policy: str,
        speculation: int,
        wave: str,
        period: int = 0,
    ) -> None:
        self.keys, self.capacities, self.pool, self.wave = keys, list(capacities), speculation, wave
        self.policies = [NaivePolicy(policy, keys.resident, period) for _ in capacities]
        self.cached: list[list[int]] = [[] for _ in capacities]
        self.stage: list[tuple[int, int]] = []
        self.pinned: list[list[int]] = []
        self.number, self.tick = 0, -1

    def size(self, keys: Iterable[int]) -> int:
        return sum(self.keys.resident[key] for key in keys)

    def step(self, number: int) -> None:
        self.number = number

    def pin(self, ids: Sequence[int]) -> None:
        self.pinned.append(list(ids))

    def unpin(self, at: int) -> None:
        del self.pinned[at]

    def _is_pinned(self, key: int) -> bool:
        return any(key in ids for ids in self.pinned)

    def acquire(self, layer: int, ids: Sequence[int], following: Sequence[int]) -> tuple[list[int], ...]:
        group = self.keys.groups[layer]
        before = list(self.cached[group])
        self.tick = self.number * self.keys.layers + layer
        staged_keys = [key for key, _ in self.stage]
        hits = [key for key in ids if key in before]
        staged = [key for key in ids if key in staged_keys]
        misses = [key for key in ids if key not in before and key not in staged_keys]
        self.policies[group].use(ids, following)
        after, evicted = self._after(group, before, ids)
        self.cached[group] = after
        streamed = [key for key in ids if key not in after]
        self.stage = [(key, due) for key, due in self.stage if key not in staged]
        cancelled = [key for key, due in self.stage if due <= self.tick]
        self.stage = [(key, due) for key, due in self.stage if due > self.tick]
        return hits, staged, misses, evicted, streamed, cancelled

    def _after(self, group: int, before: list[int], ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Who is cached afterwards, and who was evicted."""
        policy, capacity = self.policies[group], self.capacities[group]
        new = [key for key in ids if key not in before and self.size([key]) <= capacity]
        over = self.size(before) + self.size(new) - capacity
        if over <= 0:
            return before + new, []
        free = [key for key in before if key not in ids and not self._is_pinned(key)]
        if over <= self.size(free):
            out = policy.worst(over, free)
            return [key for key in before + new if key not in out], out
        if self.wave == "bypass":
            kept = list(before)
            for key in new:
                if self.size(kept) + self.size([key]) <= capacity:
                    kept.append(key)
            return kept, []
        competing = [key for key in before if not self._is_pinned(key)] + new
        out = policy.worst(over, competing)
        kept = [key for key in before + new if key not in out]
        return kept, [key for key in out if key not in ids]

    def want(self, wants: Iterable[tuple[int, int]]) -> list[int]:
        placed = []
        for key, due in wants:
            owned = any(key in cached for cached in self.cached) or key in [
                staged for staged, _ in self.stage
            ]
            room = self.pool - self.size(staged for staged, _ in self.stage)
            if not owned and due > self.tick and self.size([key]) <= room:
                self.stage.append((key, due))
                placed.append(key)
        return placed

    def set_budget(self, group: int, capacity: int) -> list[int]:
        self.capacities[group] = capacity
        cached = self.cached[group]
        pinned = [key for key in cached if self._is_pinned(key)]
        free = [key for key in cached if key not in pinned] if self.size(pinned) <= capacity else cached
        out = self.policies[group].worst(self.size(cached) - capacity, free)
        self.cached[group] = [key for key in cached if key not in out]
        return out

    def set_speculation(self, capacity: int) -> list[int]:
        self.pool = capacity
        out = []
        while self.size(key for key, _ in self.stage) > capacity:
            out.append(self.stage.pop()[0])
        return out

    def discard(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        evicted = [key for key in ids if any(key in cached for cached in self.cached)]
        cancelled = [key for key in ids if key in [staged for staged, _ in self.stage]]
        self.cached = [[key for key in cached if key not in ids] for cached in self.cached]
        self.stage = [(key, due) for key, due in self.stage if key not in ids]
        return evicted, cancelled

"""What an event did, and the counts since the start."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Decision(NamedTuple):
    """What one event did. Lists of keys; together `hits`, `staged` and `misses` are the ids asked for."""

    hits: list[int]
    """Cached before the call."""
    staged: list[int]
    """Speculated before the call; they leave the pool for the cache (or stream)."""
    misses: list[int]
    evicted: list[int]
    """Dropped now, not asked for. In the policy's order, worst first."""
    streamed: list[int]
    """Asked for, used, then dropped. Hits may be among them."""
    cancelled: list[int]
    """Speculated in vain: their due tick is past."""


@dataclass(slots=True)
class Stats:
    """Counts of experts since the start. A request is one distinct expert of one layer in one step."""

    hits: int = 0
    staged: int = 0
    misses: int = 0
    evicted: int = 0
    streamed: int = 0
    wasted: int = 0

    @property
    def requests(self) -> int:
        """Experts asked for."""
        return self.hits + self.staged + self.misses

    @property
    def hit_rate(self) -> float:
        """(hits + staged) / requests; 0 before the first request."""
        return (self.hits + self.staged) / self.requests if self.requests else 0.0


Event = tuple[Any, ...]
"""What the Ledger was told and what it did: ("request", number, begin), ("step", number, phase, tokens),
("forecast", ahead, layer, ids, confidence), ("acquire", layer, ids, Decision, counts or None),
("want", keys placed, their due ticks), ("set_budget", group, bytes, Decision),
("set_speculation", bytes, Decision), ("discard", keys, Decision)."""
Log = Callable[[Event], object] | list[Event]

"""The speed no engine can exceed on a machine: bytes over rates.

Reading experts from disk and computing over memory overlap at best, so a token takes at least the longer of
the two (the roofline, Williams, Waterman and Patterson, CACM 52(4), 2009, with the disk as a second roof).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from locum.errors import UsageError

HIT_RATES = (0.0, 0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """At `hit_rate`, at most `tokens_per_s`; `bound` says which resource sets that.

    `disk_seconds` and `memory_seconds` are what one token needs of each.
    """

    hit_rate: float
    tokens_per_s: float
    bound: Literal["disk", "memory"]
    disk_seconds: float
    memory_seconds: float


def ceiling(
    *,
    hit_rate: float,
    expert_bytes: float,
    backbone_bytes: float,
    disk_bytes_s: float,
    memory_bytes_s: float,
) -> Ceiling:
    """The bound for one decoded token that uses `expert_bytes` of experts and `backbone_bytes` of the rest.

    Every byte used is read from memory once; the missed share of the experts comes from disk before. Raises
    `UsageError` for a hit rate outside 0..1, rates that are not positive, bytes negative or all zero.
    """
    _check("hit rate", hit_rate, 0 <= hit_rate <= 1, "0 to 1")
    for name, rate in (("disk rate", disk_bytes_s), ("memory rate", memory_bytes_s)):
        _check(name, rate, 0 < rate < math.inf, "a positive number of bytes per second")
    for name, count in (
        ("expert bytes per token", expert_bytes),
        ("backbone bytes per token", backbone_bytes),
    ):
        _check(name, count, 0 <= count < math.inf, "zero or more")
    _check(
        "bytes per token", expert_bytes + backbone_bytes, expert_bytes + backbone_bytes > 0, "more than zero"
    )
    disk = (1 - hit_rate) * expert_bytes / disk_bytes_s
    memory = (expert_bytes + backbone_bytes) / memory_bytes_s
    return Ceiling(
        hit_rate=hit_rate,
        tokens_per_s=1 / max(disk, memory),
        bound="disk" if disk > memory else "memory",
        disk_seconds=disk,
        memory_seconds=memory,
    )


def ceilings(
    *,
    expert_bytes: float,
    backbone_bytes: float,
    disk_bytes_s: float,
    memory_bytes_s: float,
    hit_rates: Iterable[float] = HIT_RATES,
) -> tuple[Ceiling, ...]:
    """`ceiling` at each of `hit_rates`. Raises `UsageError` as it does."""
    return tuple(
        ceiling(
            hit_rate=rate,
            expert_bytes=expert_bytes,
            backbone_bytes=backbone_bytes,
            disk_bytes_s=disk_bytes_s,
            memory_bytes_s=memory_bytes_s,
        )
        for rate in hit_rates
    )


def _check(name: str, value: float, fine: bool, allowed: str) -> None:
    if not fine:
        raise UsageError(f"no ceiling for this {name}", allowed=allowed, got=value)

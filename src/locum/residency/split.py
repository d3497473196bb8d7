"""How an arena is divided: what stays, what is speculated, and one slot that everything can go through."""

from dataclasses import dataclass

from locum.errors import BudgetError
from locum.residency.keys import KeySpace
from locum.residency.slots import PAGE, minimum_bytes, usable_bytes

SPECULATION_SHARE = 4
"""Speculation gets at most one part in this many of the arena."""


@dataclass(frozen=True, slots=True)
class ArenaSplit:
    """The arena's bytes: `cache` for the Ledger, `speculation`, and one slot through which anything can
    stream.
    """

    budget: int
    cache: int
    speculation: int


def split_arena(keys: KeySpace, arena_bytes: int, wanted_slots: int) -> ArenaSplit:
    """Divide an arena of `arena_bytes`; `wanted_slots` is how many experts the prefetcher would like to hold.

    Raises `BudgetError` when not even one expert fits.
    """
    budget = -(-arena_bytes // PAGE) * PAGE
    least = minimum_bytes(keys.largest, keys.classes)
    slots = min(usable_bytes(budget, keys.classes), arena_bytes)
    if slots < keys.largest:
        raise BudgetError(
            "the expert memory is too small for one expert",
            minimum=least,
            allowed=f"{least} bytes",
            got=arena_bytes,
        )
    speculation = min(wanted_slots, slots // keys.largest // SPECULATION_SHARE) * keys.largest
    return ArenaSplit(budget, slots - keys.largest - speculation, speculation)

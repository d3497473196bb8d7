"""The future, for policies that need it: when each expert will be asked for next."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence

from locum.policy.base import NEVER


class Future:
    """What an earlier run, or a trace, says about the coming one. `uses` are (tick, keys asked for)."""

    def __init__(self, uses: Iterable[tuple[int, Sequence[int]]]) -> None:
        self._ticks: dict[int, list[int]] = defaultdict(list)
        for tick, keys in uses:
            for key in keys:
                self._ticks[key].append(tick)
        for ticks in self._ticks.values():
            ticks.sort()

    def next_uses(self, tick: int, keys: Iterable[int]) -> list[int]:
        """For each key, the first tick after `tick` at which it is asked for, `NEVER` if there is none."""
        found = []
        for key in keys:
            ticks = self._ticks.get(key, ())
            place = bisect_right(ticks, tick)
            found.append(ticks[place] if place < len(ticks) else NEVER)
        return found

"""How many threads compute, and noticing when a busy neighbour makes them useless.

torch's parallel regions end when the slowest thread does. When another process holds one core, a call of
0.2 ms waits for the scheduler's next slice and takes 8 to 16 ms. One thread is then far faster than two.
The number of threads changes the last bits of matrix products, so it is changed between requests only, and
never in silence.
"""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from locum.errors import UsageError

_LOG = logging.getLogger("locum")

CONTENDED_SECONDS = 4e-3
"""A probe call takes about 0.2 ms on a quiet machine and one scheduler slice (8 ms and more) on a contended
one.
"""
PROBES = 9


def parse_threads(text: str | int) -> int | None:
    """`auto` (None) or a number of at least one. Raises `UsageError`."""
    if text == "auto":
        return None
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise UsageError(
            "not a number of threads", where="--threads", allowed="auto, or 1 and up", got=repr(text)
        )
    return count


def probe_seconds() -> float:
    """Median seconds of a small parallel call with the present number of threads."""
    x = torch.ones(1 << 19)
    taken = []
    for _ in range(PROBES):
        start = time.perf_counter()
        torch.add(x, 1.0)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


@dataclass
class ThreadGovernor:
    """Chooses the number of compute threads at the start of each request.

    `asked` is the user's number, None for auto. `cores` is what auto starts from.
    """

    asked: int | None
    cores: int
    probe: Callable[[], float] = probe_seconds
    contended: bool = False

    def settle(self) -> int:
        """Set torch's thread count for the next request, by a probe, and return it."""
        wanted = self.asked or self.cores
        torch.set_num_threads(wanted)
        if wanted == 1:
            return 1
        slow = self.probe() > CONTENDED_SECONDS
        if slow and not self.contended:
            self._say(wanted)
        self.contended = slow
        if slow and self.asked is None:
            torch.set_num_threads(1)
            return 1
        return wanted

    def _say(self, wanted: int) -> None:
        if self.asked is None:
            _LOG.warning(
                "another process keeps a core busy: computing with 1 thread instead of %d for now", wanted
            )
        else:
            _LOG.warning(
                "another process keeps a core busy: %d threads will wait for it at every step; "
                "--threads 1 or --threads auto would be faster",
                wanted,
            )

"""transformers with accelerate's offload to disk, under the same limit as locum."""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.bench.cgroup import Outcome, run_limited
from locum.bench.facts import drop_caches

SHARES = (0.65, 0.25)
"""Shares of the limit to try as `max_memory`: it bounds the weights in memory, not the process."""
TIMEOUT = 900.0


@dataclass(frozen=True, slots=True)
class PeerAsk:
    """What is asked of the peer, in a group limited to `limit` bytes."""

    limit: int
    max_memory: int
    tokens: int
    prompt: str


@dataclass(frozen=True, slots=True)
class PeerRun:
    """One attempt, as far as it came. `steps` are seconds per decoded token.

    `first_step` is the prompt with everything still cold, and is not one of `steps`.
    """

    asked: PeerAsk
    outcome: Outcome
    load_seconds: float | None
    first_step: float | None
    steps: tuple[float, ...]
    offload_bytes: int
    caches_dropped: bool

    @property
    def cannot(self) -> str | None:
        """Why it is no measurement; None when it is."""
        if self.outcome.failure is not None:
            return self.outcome.failure
        return None if self.steps else "it decoded nothing"

    @property
    def tok_s(self) -> float:
        """Tokens per second over the decode steps."""
        return len(self.steps) / sum(self.steps)


def command(ask: PeerAsk, model: Path, offload: Path) -> list[str]:
    """The child's command line."""
    child = [sys.executable, "-m", "locum.bench.peers.accelerate_child"]
    return [*child, str(model), str(offload), str(ask.max_memory), str(ask.tokens), ask.prompt]


def _events(stdout: str) -> list[dict[str, Any]]:
    events = []
    for line in stdout.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a line cut off when the process was killed, or a library's own words
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


def read_run(ask: PeerAsk, outcome: Outcome, *, offload_bytes: int, dropped: bool) -> PeerRun:
    """What the child's lines say, however far it came."""
    events = _events(outcome.stdout)
    loaded = next((event["seconds"] for event in events if event["event"] == "loaded"), None)
    steps = [event["seconds"] for event in events if event["event"] == "step"]
    return PeerRun(
        asked=ask,
        outcome=outcome,
        load_seconds=loaded,
        first_step=steps[0] if steps else None,
        steps=tuple(steps[1:]),
        offload_bytes=offload_bytes,
        caches_dropped=dropped,
    )


def run(model: Path, ask: PeerAsk, *, scratch: Path) -> PeerRun:
    """One run from cold caches. The offload folder lies in `scratch` and is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="locum-offload-", dir=scratch) as folder:
        dropped = drop_caches()
        outcome = run_limited(command(ask, model, Path(folder)), limit=ask.limit, timeout=TIMEOUT)
        offloaded = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return read_run(ask, outcome, offload_bytes=offloaded, dropped=dropped)


Attempt = Callable[[int, int], PeerRun]
"""(limit, max_memory) -> what became of it."""


def smallest(attempt: Attempt, limits: Sequence[int]) -> list[PeerRun]:
    """Climb the ladder of `limits` until it runs: every attempt, in order.

    At each limit every share is tried, so that the peer is measured at its best setting there.
    """
    attempts: list[PeerRun] = []
    for limit in sorted(limits):
        attempts += [attempt(limit, int(limit * share)) for share in SHARES]
        if any(tried.cannot is None for tried in attempts):
            break
    return attempts


def best(attempts: Sequence[PeerRun]) -> PeerRun | None:
    """The fastest attempt that ran; None when none did."""
    return max((tried for tried in attempts if tried.cannot is None), key=lambda t: t.tok_s, default=None)

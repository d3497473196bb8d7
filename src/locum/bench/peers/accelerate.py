"""transformers with accelerate's offload to disk, under the same limit as locum."""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locum.bench.cgroup import Outcome, run_limited
from locum.bench.facts import drop_caches

SHARES = (0.65, 0.25)
"""What `max_memory` is tried as, in shares of the limit: it bounds the weights kept in memory, not the process."""
TIMEOUT = 900.0


@dataclass(frozen=True, slots=True)
class PeerRun:
    """One attempt. `cannot` says why it did not finish, in a few words; steps are seconds per decoded token.

    `first_step` is the prompt with everything still cold, and is not one of `steps`.
    """

    limit: int
    max_memory: int
    outcome: Outcome
    load_seconds: float | None
    first_step: float | None
    steps: tuple[float, ...]
    on_disk: int | None
    offload_bytes: int
    tokens: tuple[int, ...] = field(default=())

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


def command(model: Path, offload: Path, max_memory: int, tokens: int, prompt: str) -> list[str]:
    """The child's command line."""
    child = "locum.bench.peers.accelerate_child"
    return [sys.executable, "-m", child, str(model), str(offload), str(max_memory), str(tokens), prompt]


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


def read_run(limit: int, max_memory: int, outcome: Outcome, offload_bytes: int) -> PeerRun:
    """What the child's lines say, however far it came."""
    events = _events(outcome.stdout)
    loaded = next((event for event in events if event["event"] == "loaded"), {})
    steps = [event for event in events if event["event"] == "step"]
    return PeerRun(
        limit=limit,
        max_memory=max_memory,
        outcome=outcome,
        load_seconds=loaded.get("seconds"),
        first_step=steps[0]["seconds"] if steps else None,
        steps=tuple(step["seconds"] for step in steps[1:]),
        on_disk=loaded.get("on_disk"),
        offload_bytes=offload_bytes,
        tokens=tuple(step["token"] for step in steps),
    )


def run(model: Path, *, limit: int, max_memory: int, tokens: int, prompt: str, scratch: Path) -> PeerRun:
    """One run from cold caches. The offload folder lies in `scratch` and is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="locum-offload-", dir=scratch) as folder:
        drop_caches()
        words = command(model, Path(folder), max_memory, tokens, prompt)
        outcome = run_limited(words, limit=limit, timeout=TIMEOUT)
        offloaded = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return read_run(limit, max_memory, outcome, offloaded)


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

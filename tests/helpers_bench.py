"""Outcomes of benchmark processes, made up."""

import json
from typing import Any

from locum.bench.cgroup import Outcome
from locum.units import GIB


def outcome(stdout: str = "", **changes: Any) -> Outcome:
    """A command that ended well, but for `changes`."""
    plain: dict[str, Any] = {
        "exit_code": 0,
        "stdout": stdout,
        "stderr": "",
        "seconds": 9.0,
        "limit": 4 * GIB,
        "enforced": "cgroup",
        "peak": 3 * GIB,
        "peak_anonymous": GIB,
        "peak_cache": GIB,
        "oom_kills": 0,
        "timed_out": False,
    }
    return Outcome(**{**plain, **changes})


def protocol(*steps: float) -> str:
    """What the accelerate child prints: loaded, then steps of these seconds."""
    events: list[dict[str, Any]] = [
        {"event": "versions"},
        {"event": "loaded", "seconds": 60.5, "modules": 1, "on_disk": 1},
    ]
    events += [{"event": "step", "number": n, "seconds": s, "token": 7} for n, s in enumerate(steps)]
    return "".join(json.dumps(event) + "\n" for event in events)

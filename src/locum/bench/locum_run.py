"""One `locum run` under a hard limit, from cold caches, with the disk and memory measured on both sides of it."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.bench.cgroup import Outcome, run_limited
from locum.bench.facts import drop_caches
from locum.bench.roofline import Rates, Traffic
from locum.units import GIB, MIB

TIMEOUT = 900.0
PROMPT = "The function returns a list of the names in the current module, sorted in ascending order."


@dataclass(frozen=True, slots=True)
class LocumRun:
    """One run: what the process said (`document` as `locum run --json` prints it), and what was measured
    outside.

    `rates` hold for the time of the run, `bound` is the roofline at the hit rate that the run reached.
    """

    outcome: Outcome
    document: dict[str, Any] | None
    rates: Rates
    bound_tok_s: float | None
    bound_by: str | None
    caches_dropped: bool

    @property
    def cannot(self) -> str | None:
        """Why it is no measurement; None when it is."""
        if self.outcome.failure is not None:
            return self.outcome.failure
        if self.document is None or not self.document.get("decode_tok_s"):
            return "it printed no result"
        return None

    @property
    def tok_s(self) -> float:
        """Decoded tokens per second."""
        assert self.document is not None
        return float(self.document["decode_tok_s"])

    @property
    def ratio(self) -> float:
        """Of the bound."""
        assert self.bound_tok_s is not None
        return self.tok_s / self.bound_tok_s


def size_flag(size: int) -> str:
    """A size as the command line takes it, exact."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def command(model: Path, *, memory: int, tokens: int, prompt: str, extra: tuple[str, ...] = ()) -> list[str]:
    """The child's command line: greedy, to the full number of tokens."""
    asked = ["--memory", size_flag(memory), "--max-tokens", str(tokens), "--temperature", "0", "--ignore-eos"]
    return [sys.executable, "-m", "locum", "run", str(model), prompt, *asked, *extra, "--json"]


def read_document(stdout: str) -> dict[str, Any] | None:
    """The object that `--json` printed; None when it is not there or not whole."""
    try:
        document = json.loads(stdout)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def run(
    model: Path,
    traffic: Traffic,
    *,
    memory: int,
    tokens: int,
    prompt: str = PROMPT,
    limit: int | None = None,
    extra: tuple[str, ...] = (),
) -> LocumRun:
    """Measure, drop the caches, run with `--memory memory` in a group limited to `limit` (the same), measure.

    The process's idea of the machine (its own ceilings) is not what is judged; only our two measurements are.
    """
    before = Rates.measure(model)
    dropped = drop_caches()
    words = command(model, memory=memory, tokens=tokens, prompt=prompt, extra=extra)
    outcome = run_limited(words, limit=limit or memory, timeout=TIMEOUT, env={"PYTHONUNBUFFERED": "1"})
    rates = before.mean(Rates.measure(model))
    document = read_document(outcome.stdout)
    bound: dict[str, Any] = {}
    if document is not None and document.get("hit_rate") is not None:
        bound = traffic.bound(rates, float(document["hit_rate"]))
    return LocumRun(outcome, document, rates, bound.get("tok_s"), bound.get("by"), dropped)


def load_average() -> float:
    """Processes that wanted a core during the last minute: a busy machine measures itself."""
    return os.getloadavg()[0]

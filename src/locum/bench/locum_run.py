"""One `locum run` under a hard limit, from cold caches; disk and memory are measured before and after it."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.bench.cgroup import Outcome, run_limited
from locum.bench.facts import drop_caches
from locum.bench.roofline import Bound, Rates, Traffic
from locum.units import GIB, MIB

TIMEOUT = 900.0
PROMPT = "The function returns a list of the names in the current module, sorted in ascending order."


def size_flag(size: int) -> str:
    """A size as the command line takes it, exact."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of locum: `--memory memory` in a group limited to `limit`, `tokens` of greedy text.

    `context` is what the KV cache is reserved for; peers reserve nothing ahead.
    """

    memory: int
    limit: int
    tokens: int = 48
    prompt: str = PROMPT
    context: int = 512
    extra: tuple[str, ...] = ()

    def command(self, model: Path) -> list[str]:
        """The child's command line."""
        memory = ["--memory", size_flag(self.memory)]
        length = ["--context", str(self.context), "--max-tokens", str(self.tokens), "--ignore-eos"]
        run = [sys.executable, "-m", "locum", "run", str(model), self.prompt]
        return [*run, *memory, *length, "--temperature", "0", *self.extra, "--json"]


@dataclass(frozen=True, slots=True)
class LocumRun:
    """One run: what the process said (`document`, by `locum run --json`), and what was measured outside.

    `rates` hold for the time of the run, `bound` is the roofline at the share of experts kept in memory.
    """

    asked: Ask
    outcome: Outcome
    document: dict[str, Any] | None
    rates: Rates
    bound: Bound | None
    caches_dropped: bool

    @property
    def cannot(self) -> str | None:
        """Why it is no measurement; None when it is."""
        if self.outcome.failure is not None:
            return self.outcome.failure
        if self.document is None or self.bound is None or not self.document.get("decode_tok_s"):
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
        assert self.bound is not None
        return self.tok_s / self.bound.tok_s


def read_document(stdout: str) -> dict[str, Any] | None:
    """The object that `--json` printed; None when it is not there or not whole."""
    try:
        document = json.loads(stdout)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def kept_rate(document: dict[str, Any]) -> float | None:
    """The share of experts that stayed in memory while decoding: what was read ahead still came from disk."""
    decode = document.get("decode")
    rate = decode.get("kept_rate") if isinstance(decode, dict) else None
    return float(rate) if isinstance(rate, int | float) else None


def run(model: Path, traffic: Traffic, ask: Ask) -> LocumRun:
    """Measure, drop the caches, run, measure.

    What the process thinks of the machine (its own ceiling) is not what is judged; our two measurements are.
    """
    before = Rates.measure(model)
    dropped = drop_caches()
    outcome = run_limited(ask.command(model), limit=ask.limit, timeout=TIMEOUT)
    rates = before.mean(Rates.measure(model))
    document = read_document(outcome.stdout)
    rate = None if document is None else kept_rate(document)
    bound = None if rate is None else traffic.bound(rates, rate)
    return LocumRun(ask, outcome, document, rates, bound, dropped)


def load_average() -> float:
    """Processes that wanted a core during the last minute: a busy machine measures itself."""
    return os.getloadavg()[0]

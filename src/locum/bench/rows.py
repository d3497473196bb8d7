"""How the outcomes of runs become rows: circumstances first, then figures with their spread."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from locum.bench import locum_run
from locum.bench.cgroup import Outcome
from locum.bench.facts import circumstances
from locum.bench.locum_run import LocumRun, load_average
from locum.bench.peers import accelerate
from locum.bench.peers.accelerate import PeerRun
from locum.bench.record import Row, spread
from locum.bench.roofline import Rates
from locum.bench.workshop import Model
from locum.units import format_bytes

_FIGURES = ("decode_tok_s", "ttft_s", "hit_rate", "stall_s", "bytes_read", "peak_rss", "tokens")
_LOAD_FIGURES = ("load_s", "bytes_read", "peak_rss")
_SETTINGS = ("eviction", "prefetch", "mover", "threads", "dtype", "contended")


def shown(words: Sequence[str], model: Path) -> str:
    """A command line for people: without this machine's paths."""
    named = ["MODEL" if word == str(model) else f'"{word}"' if " " in word else word for word in words[1:]]
    return " ".join(["python", *named])


def _cannot(reasons: Sequence[str | None]) -> Row:
    reason = next((reason for reason in reasons if reason), None)
    return {"cannot": f"cannot run, because {reason}"} if reason else {}


def _basis(model: Model, limit: int, outcomes: Sequence[Outcome], dropped: bool) -> Row:
    """What every row says, whoever ran."""
    return {
        **circumstances(model.path),
        "model": model.facts(),
        "memory_limit": limit,
        "enforced": outcomes[0].enforced,
        "caches": "dropped before every run" if dropped else "warm: no right to drop them",
        "repeats": len(outcomes),
        "oom_kills": sum(outcome.oom_kills for outcome in outcomes),
        "peak_bytes": spread(outcome.peak for outcome in outcomes),
        "peak_anonymous_bytes": spread(outcome.peak_anonymous for outcome in outcomes),
        "load_average": load_average(),
    }


def _rates(rates: Sequence[Rates]) -> Row:
    return {
        "disk_bytes_s": spread(rate.disk for rate in rates),
        "memory_bytes_s": spread(rate.memory for rate in rates),
        "disk_probe": f"{rates[0].mode}, {format_bytes(rates[0].block)} each, {rates[0].threads} threads",
    }


def locum_row(model: Model, what: str, runs: Sequence[LocumRun]) -> Row:
    """One row over repeated runs of locum; `cannot` when any of them failed."""
    asked = runs[0].asked
    row: Row = {
        "engine": "locum",
        "what": what,
        "command": shown(asked.command(model.path), model.path),
        **_basis(model, asked.limit, [run.outcome for run in runs], all(run.caches_dropped for run in runs)),
        **_rates([run.rates for run in runs]),
        "prompt": asked.prompt,
        **_cannot([run.cannot for run in runs]),
    }
    if "cannot" in row:
        return row
    documents: list[dict[str, Any]] = [run.document or {} for run in runs]
    first = documents[0]
    arena = first.get("arena_bytes")
    return {
        **row,
        **{name: spread(document.get(name) for document in documents) for name in _FIGURES},
        "prompt_tokens": first.get("prompt_tokens"),
        "bound_tok_s": spread(run.bound.tok_s for run in runs if run.bound),
        "bound_by": sorted({run.bound.by for run in runs if run.bound}),
        "of_bound": spread(run.ratio for run in runs),
        "settings": {name: first.get(name) for name in _SETTINGS},
        # greedy text that loops asks for the same experts again: few distinct tokens would explain many hits
        "routing": {
            "distinct_tokens": len(set(first.get("token_ids", ()))),
            "arena_share": arena / model.facts()["expert_bytes"] if arena else None,
        },
    }


def peer_row(model: Model, what: str, runs: Sequence[PeerRun], rates: Sequence[Rates] = ()) -> Row:
    """One row over repeated runs of the peer at one setting."""
    asked = runs[0].asked
    row: Row = {
        "engine": "accelerate",
        "what": what,
        "command": shown(accelerate.command(asked, model.path, Path("OFFLOAD_FOLDER")), model.path),
        **_basis(model, asked.limit, [run.outcome for run in runs], all(run.caches_dropped for run in runs)),
        **(_rates(rates) if rates else {}),
        "prompt": asked.prompt,
        "max_memory": asked.max_memory,
        "offload_bytes": spread(run.offload_bytes for run in runs),
        "load_s": spread(run.load_seconds for run in runs),
        "note": f"max_memory {format_bytes(asked.max_memory)}",
        **_cannot([run.cannot for run in runs]),
    }
    if "cannot" in row:
        return row
    return {
        **row,
        "decode_tok_s": spread(run.tok_s for run in runs),
        "step_s": spread(step for run in runs for step in run.steps),
        "ttft_s": spread(run.first_step for run in runs),
        "tokens": spread(len(run.steps) for run in runs),
    }


def load_row(
    model: Model,
    what: str,
    words: Sequence[str],
    outcomes: Sequence[Outcome],
    rates: Sequence[Rates],
    *,
    dropped: bool,
) -> Row:
    """One row over repeated loads in processes that print what `load_child` prints."""
    row: Row = {
        "engine": "locum",
        "what": what,
        "command": shown(words, model.path),
        **_basis(model, outcomes[0].limit, outcomes, dropped),
        **_rates(rates),
        **_cannot([_load_failure(outcome) for outcome in outcomes]),
    }
    if "cannot" in row:
        return row
    said = [json.loads(outcome.stdout) for outcome in outcomes]
    return {**row, **{name: spread(each[name] for each in said) for name in _LOAD_FIGURES}}


def _load_failure(outcome: Outcome) -> str | None:
    if outcome.failure is None and locum_run.read_document(outcome.stdout) is None:
        return "it printed no result"
    return outcome.failure

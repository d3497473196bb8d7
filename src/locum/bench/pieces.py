"""The measurements that `make check` makes, each a function from a workshop to rows and targets."""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from locum.bench import locum_run
from locum.bench.cgroup import Outcome, run_limited
from locum.bench.facts import circumstances, drop_caches
from locum.bench.locum_run import LocumRun, load_average
from locum.bench.peers import accelerate
from locum.bench.peers.accelerate import PeerRun
from locum.bench.record import Result, Row, Target, spread
from locum.bench.roofline import Rates
from locum.bench.workshop import Model, Workshop, say
from locum.units import GIB, format_bytes

SHAPE = "olmoe-1b-7b"
OF_BOUND, FASTER, LOAD_RATIO = 0.7, 5.0, 1.25
TOKENS, REPEATS = 48, 3
PEER_TOKENS, PEER_REPEATS = 6, 2
LADDER = tuple(int(size * GIB) for size in (1.5, 2, 3, 4, 5, 6, 6.9, 8))
"""Limits at which the peer is tried, from the smallest up."""


def _shown(words: Sequence[str], *paths: Path) -> str:
    """A command line for people: without this machine's paths."""
    named = {str(path): name for path, name in zip(paths, ("MODEL", "OFFLOAD_FOLDER"), strict=False)}
    shown = [named.get(word, f'"{word}"' if " " in word else word) for word in words]
    return " ".join(["python", *shown[1:]])


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
        "disk_probe": f"{rates[0].mode} reads of {format_bytes(rates[0].block)} by {rates[0].threads} threads",
    }


def locum_row(model: Model, what: str, runs: Sequence[LocumRun], limit: int, prompt: str) -> Row:
    """One row over repeated runs of locum; `cannot` when any of them failed."""
    words = locum_run.command(model.path, memory=limit, tokens=TOKENS, prompt=prompt)
    row: Row = {
        "engine": "locum",
        "what": what,
        "command": _shown(words, model.path),
        **_basis(model, limit, [run.outcome for run in runs], all(run.caches_dropped for run in runs)),
        **_rates([run.rates for run in runs]),
        "prompt": prompt,
    }
    failed = next((run.cannot for run in runs if run.cannot), None)
    if failed:
        return {**row, "cannot": f"cannot run, because {failed}"}
    documents: list[dict[str, Any]] = [run.document or {} for run in runs]
    for name in ("decode_tok_s", "ttft_s", "hit_rate", "stall_s", "bytes_read", "peak_rss", "tokens"):
        row[name] = spread(document.get(name) for document in documents)
    first = documents[0]
    row |= {
        "prompt_tokens": first.get("prompt_tokens"),
        "bound_tok_s": spread(run.bound_tok_s for run in runs),
        "bound_by": sorted({str(run.bound_by) for run in runs}),
        "of_bound": spread(run.ratio for run in runs),
        "settings": {
            name: first.get(name)
            for name in ("eviction", "prefetch", "mover", "threads", "dtype", "contended")
        },
        "routing": {
            "distinct_tokens": len(set(first.get("token_ids", ()))),
            "arena_share": _share(first.get("arena_bytes"), model.facts()["expert_bytes"]),
        },
    }
    return row


def _share(part: object, whole: int) -> float | None:
    return part / whole if isinstance(part, int) else None


def peer_row(model: Model, what: str, runs: Sequence[PeerRun], rates: Sequence[Rates], prompt: str) -> Row:
    """One row over repeated runs of the peer at one setting."""
    limit, folder = runs[0].limit, Path("OFFLOAD_FOLDER")
    words = accelerate.command(model.path, folder, runs[0].max_memory, PEER_TOKENS, prompt)
    row: Row = {
        "engine": "accelerate",
        "what": what,
        "command": _shown(words, model.path, folder),
        **_basis(model, limit, [run.outcome for run in runs], True),
        **(_rates(rates) if rates else {}),
        "prompt": prompt,
        "max_memory": runs[0].max_memory,
        "offload_bytes": spread(run.offload_bytes for run in runs),
        "load_s": spread(run.load_seconds for run in runs),
        "note": f"max_memory {format_bytes(runs[0].max_memory)}",
    }
    failed = next((run.cannot for run in runs if run.cannot), None)
    if failed:
        return {**row, "cannot": f"cannot run, because {failed}"}
    return row | {
        "decode_tok_s": spread(run.tok_s for run in runs),
        "step_s": spread(step for run in runs for step in run.steps),
        "ttft_s": spread(run.first_step for run in runs),
        "tokens": spread(len(run.steps) for run in runs),
    }


def spine(limit: int) -> Callable[[Workshop], Result]:
    """Decode in a group of exactly `--memory` bytes: never killed, and near the bound of disk and memory."""

    def measure(workshop: Workshop) -> Result:
        model = workshop.model(SHAPE)
        runs = []
        for number in range(REPEATS):
            runs.append(locum_run.run(model.path, model.traffic, memory=limit, tokens=TOKENS))
            say(f"run {number + 1} of {REPEATS}: {_told(runs[-1])}")
        row = locum_row(model, f"decode in {format_bytes(limit)}", runs, limit, locum_run.PROMPT)
        kills = row["oom_kills"]
        reached = statistics.median(run.ratio for run in runs) if not row.get("cannot") else None
        return Result(
            [row],
            [
                Target("never killed", "0 kills", f"{kills} kills", kills == 0),
                Target(
                    "decode as a share of the bound measured in the same run",
                    f">= {OF_BOUND}",
                    row.get("cannot") or f"{reached:.2f}",
                    reached is not None and reached >= OF_BOUND,
                ),
            ],
        )

    return measure


def _told(run: LocumRun) -> str:
    if run.cannot:
        return f"cannot run, because {run.cannot}"
    hits = (run.document or {}).get("hit_rate", 0.0)
    return f"{run.tok_s:.2f} tokens/s, {run.ratio:.0%} of the bound, {hits:.0%} hits"


def against_accelerate(workshop: Workshop) -> Result:
    """Beside accelerate's disk offload, at the smallest limit where both run; interleaved."""
    model, prompt = workshop.model(SHAPE), locum_run.PROMPT

    def attempt(limit: int, max_memory: int) -> PeerRun:
        run = accelerate.run(
            model.path,
            limit=limit,
            max_memory=max_memory,
            tokens=PEER_TOKENS,
            prompt=prompt,
            scratch=workshop.folder,
        )
        told = run.cannot or f"{run.tok_s:.3f} tokens/s"
        say(f"accelerate in {format_bytes(limit)}, max_memory {format_bytes(max_memory)}: {told}")
        return run

    rows: list[Row] = []
    limits = list(LADDER)
    while limits:
        attempts = accelerate.smallest(attempt, limits)
        rows += [peer_row(model, "trying limits", [run], [], prompt) for run in attempts]
        fastest = accelerate.best(attempts)
        if fastest is None:
            break
        ours = locum_run.run(model.path, model.traffic, memory=fastest.limit, tokens=TOKENS)
        say(f"locum in {format_bytes(fastest.limit)}: {_told(ours)}")
        if ours.cannot is None:
            return _side_by_side(model, rows, fastest, attempt, prompt)
        rows.append(locum_row(model, "trying limits", [ours], fastest.limit, prompt))
        limits = [limit for limit in limits if limit > fastest.limit]
    missed = Target("faster than accelerate", f">= {FASTER}x", "no limit at which both run", False)
    return Result(rows, [missed])


def _side_by_side(
    model: Model, rows: list[Row], peer: PeerRun, attempt: Callable[[int, int], PeerRun], prompt: str
) -> Result:
    ours: list[LocumRun] = []
    theirs: list[PeerRun] = []
    for _ in range(PEER_REPEATS):
        ours.append(locum_run.run(model.path, model.traffic, memory=peer.limit, tokens=TOKENS))
        say(f"locum in {format_bytes(peer.limit)}: {_told(ours[-1])}")
        theirs.append(attempt(peer.limit, peer.max_memory))
    rates = [run.rates for run in ours]
    rows = [
        locum_row(model, "side by side", ours, peer.limit, prompt),
        peer_row(model, "side by side", theirs, rates, prompt),
        *rows,
    ]
    failed = rows[0].get("cannot") or rows[1].get("cannot")
    factor = 0.0
    if not failed:
        factor = statistics.median(run.tok_s for run in ours) / statistics.median(run.tok_s for run in theirs)
    return Result(
        rows,
        [
            Target(
                f"faster than accelerate in {format_bytes(peer.limit)}",
                f">= {FASTER}x",
                failed or f"{factor:.1f}x",
                not failed and factor >= FASTER,
            )
        ],
    )


_VARIANTS: tuple[tuple[str, dict[str, int]], ...] = (
    ("a quarter of the experts", {"num_experts": 16}),
    ("a quarter of the experts, small vocabulary", {"num_experts": 16, "vocab_size": 8192}),
    ("a quarter of the experts, four times the vocabulary", {"num_experts": 16, "vocab_size": 201216}),
)


def load_time(workshop: Workshop) -> Result:
    """Loading reads the backbone and no expert: the same backbone loads alike under four times the experts."""
    limit = 8 * GIB
    models = [("all experts", workshop.model(SHAPE))]
    rows: list[Row] = []
    medians: list[tuple[int, float]] = []
    for what, overrides in ((models[0][0], None), *_VARIANTS):
        label = "-".join(f"{key}{value}" for key, value in (overrides or {}).items())
        model = workshop.model(SHAPE, label, **(overrides or {}))
        rows.append(_load_row(model, what, limit))
        if rows[-1].get("load_s"):
            medians.append((model.facts()["backbone_bytes"], rows[-1]["load_s"]["median"]))
        if overrides:
            workshop.discard(model)
        say(f"{what}: {rows[-1].get('cannot') or rows[-1]['load_s']}")
    return Result(rows, _load_targets(rows, medians))


def _load_row(model: Model, what: str, limit: int) -> Row:
    words = [sys.executable, "-m", "locum.bench.load_child", str(model.path), locum_run.size_flag(limit)]
    outcomes, dropped, rates = [], True, []
    for _ in range(REPEATS):
        rates.append(Rates.measure(model.path))
        dropped &= drop_caches()
        outcomes.append(run_limited(words, limit=limit, timeout=locum_run.TIMEOUT))
    row = {
        "engine": "locum",
        "what": what,
        "command": _shown(words, model.path),
        **_basis(model, limit, outcomes, dropped),
        **_rates(rates),
    }
    failed = next((outcome.failure for outcome in outcomes if outcome.failure), None)
    if failed:
        return {**row, "cannot": f"cannot run, because {failed}"}
    said = [json.loads(outcome.stdout) for outcome in outcomes]
    return row | {name: spread(each[name] for each in said) for name in ("load_s", "bytes_read", "peak_rss")}


def _load_targets(rows: Sequence[Row], medians: Sequence[tuple[int, float]]) -> list[Target]:
    if len(medians) < len(rows):
        return [Target("loading", "every shape loads", "some did not", False)]
    many, few = medians[0][1], medians[1][1]
    ratio = many / few
    in_order = [seconds for _, seconds in sorted(medians[1:])]
    read = max(row["bytes_read"]["max"] / row["model"]["backbone_bytes"] for row in rows)
    slope, base = statistics.linear_regression(*zip(*medians, strict=True))
    return [
        Target(
            "load time with four times the expert bytes, same backbone",
            f"<= {LOAD_RATIO}x",
            f"{ratio:.2f}x",
            ratio <= LOAD_RATIO,
        ),
        Target(
            "load time grows with the backbone",
            "in order of backbone bytes",
            f"{slope * 1e9:.2f} s per GB on {base:.2f} s",
            in_order == sorted(in_order) and slope > 0,
        ),
        Target("bytes read while loading, to backbone bytes", "<= 1.1", f"{read:.2f}", read <= 1.1),
    ]


PIECES: dict[str, Callable[[Workshop], Result]] = {
    "spine-4gib": spine(4 * GIB),
    "spine-8gib": spine(8 * GIB),
    "accelerate": against_accelerate,
    "load-time": load_time,
}

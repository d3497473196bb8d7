"""The measurements that `make check` makes, each a function from a workshop to rows and targets."""

import statistics
import sys
from collections.abc import Callable, Sequence

from locum.bench import locum_run
from locum.bench.cgroup import run_limited
from locum.bench.clock import clock
from locum.bench.facts import drop_caches
from locum.bench.locality import dial
from locum.bench.locum_run import Ask, LocumRun
from locum.bench.peers import accelerate
from locum.bench.peers.accelerate import PeerAsk, PeerRun
from locum.bench.record import Result, Row, Target
from locum.bench.replay import speed
from locum.bench.roofline import Rates
from locum.bench.rows import load_row, locum_row, peer_row
from locum.bench.tracing import recording_cost, ten_million
from locum.bench.workshop import Model, Workshop, say
from locum.units import GIB, format_bytes

SHAPE = "olmoe-1b-7b"
OF_BOUND, FASTER, LOAD_RATIO, READ_RATIO = 0.7, 5.0, 1.25, 2.0
REPEATS, PEER_REPEATS, PEER_TOKENS = 3, 2, 6
LADDER = tuple(int(size * GIB) for size in (1.5, 2, 3, 4, 5, 6, 6.9, 8))
"""Limits at which the peer is tried, from the smallest up."""


def spine(limit: int) -> Callable[[Workshop], Result]:
    """Decode in a group of exactly `--memory` bytes: never killed, and near the bound of disk and memory."""

    def measure(workshop: Workshop) -> Result:
        model = workshop.model(SHAPE)
        runs = [_ours(model, limit) for _ in range(REPEATS)]
        row = locum_row(model, f"decode in {format_bytes(limit)}", runs)
        return Result([row], _spine_targets(row))

    return measure


def _spine_targets(row: Row) -> list[Target]:
    kills, reached = row["oom_kills"], row.get("of_bound")
    return [
        Target("never killed", "0 kills", f"{kills} kills", kills == 0),
        Target(
            "decode as a share of the bound measured in the same run",
            f">= {OF_BOUND}",
            f"{reached['median']:.2f}" if reached else row["cannot"],
            bool(reached and reached["median"] >= OF_BOUND),
        ),
    ]


def _ours(model: Model, limit: int) -> LocumRun:
    run = locum_run.run(model.path, model.traffic, Ask(memory=limit, limit=limit))
    told = f"cannot run, because {run.cannot}"
    if run.cannot is None:
        hits = (run.document or {}).get("hit_rate", 0.0)
        told = f"{run.tok_s:.2f} tokens/s, {run.ratio:.0%} of the bound, {hits:.0%} hits"
    say(f"locum in {format_bytes(limit)}: {told}")
    return run


def against_accelerate(workshop: Workshop) -> Result:
    """Beside accelerate's disk offload, at the smallest limit where both run; interleaved."""
    model = workshop.model(SHAPE)

    def attempt(limit: int, max_memory: int) -> PeerRun:
        ask = PeerAsk(limit=limit, max_memory=max_memory, tokens=PEER_TOKENS, prompt=locum_run.PROMPT)
        run = accelerate.run(model.path, ask, scratch=workshop.folder)
        told = f"cannot run, because {run.cannot}" if run.cannot else f"{run.tok_s:.3f} tokens/s"
        say(f"accelerate in {format_bytes(limit)}, max_memory {format_bytes(max_memory)}: {told}")
        return run

    rows: list[Row] = []
    limits = list(LADDER)
    while limits:
        attempts = accelerate.smallest(attempt, limits)
        rows += [peer_row(model, "trying limits", [run]) for run in attempts]
        fastest = accelerate.best(attempts)
        if fastest is None:
            break
        ours = _ours(model, fastest.asked.limit)
        if ours.cannot is None:
            return _side_by_side(model, rows, fastest, attempt)
        rows.append(locum_row(model, "trying limits", [ours]))
        limits = [limit for limit in limits if limit > fastest.asked.limit]
    missed = Target("faster than accelerate", f">= {FASTER}x", "no limit at which both run", False)
    return Result(rows, [missed])


def _side_by_side(
    model: Model, tried: list[Row], peer: PeerRun, attempt: Callable[[int, int], PeerRun]
) -> Result:
    limit = peer.asked.limit
    ours: list[LocumRun] = []
    theirs: list[PeerRun] = []
    for _ in range(PEER_REPEATS):
        ours.append(_ours(model, limit))
        theirs.append(attempt(limit, peer.asked.max_memory))
    first = locum_row(model, "side by side", ours)
    second = peer_row(model, "side by side", theirs, [run.rates for run in ours])
    got = first.get("cannot") or second.get("cannot")
    factor = 0.0 if got else first["decode_tok_s"]["median"] / second["decode_tok_s"]["median"]
    target = Target(
        f"faster than accelerate in {format_bytes(limit)}",
        f">= {FASTER}x",
        got or f"{factor:.1f}x",
        factor >= FASTER,
    )
    return Result([first, second, *tried], [target])


_VARIANTS: tuple[tuple[str, dict[str, int]], ...] = (
    ("all experts", {}),
    ("a quarter of the experts", {"num_experts": 16}),
    ("a quarter of the experts, small vocabulary", {"num_experts": 16, "vocab_size": 8192}),
    ("a quarter of the experts, four times the vocabulary", {"num_experts": 16, "vocab_size": 201216}),
)


def load_time(workshop: Workshop) -> Result:
    """Loading reads the backbone and no expert: under four times the experts it takes the same time."""
    rows: list[Row] = []
    for what, overrides in _VARIANTS:
        label = "-".join(f"{key}-{value}" for key, value in overrides.items())
        model = workshop.model(SHAPE, label, **overrides)
        rows.append(_load(model, what, 8 * GIB))
        if overrides:
            workshop.discard(model)
        say(f"{what}: {rows[-1].get('cannot') or rows[-1]['load_s']}")
    return Result(rows, _load_targets(rows))


def _load(model: Model, what: str, limit: int) -> Row:
    memory = locum_run.size_flag(limit)
    words = [sys.executable, "-m", "locum.bench.load_child", str(model.path), memory]
    outcomes, rates, dropped = [], [], True
    for _ in range(REPEATS):
        rates.append(Rates.measure(model.path))
        dropped &= drop_caches()
        outcomes.append(run_limited(words, limit=limit, timeout=locum_run.TIMEOUT))
    return load_row(model, what, words, outcomes, rates, dropped=dropped)


def _load_targets(rows: Sequence[Row]) -> list[Target]:
    """`rows` in the order of `_VARIANTS`."""
    if any("cannot" in row for row in rows):
        return [Target("loading", "every shape loads", "some did not", False)]
    backbones = [row["model"]["backbone_bytes"] for row in rows]
    seconds = [row["load_s"]["median"] for row in rows]
    ratio = seconds[0] / seconds[1]
    fit = statistics.linear_regression(backbones, seconds)
    same_experts = sorted(zip(backbones[1:], seconds[1:], strict=True))
    grows = [second for _, second in same_experts] == sorted(second for _, second in same_experts)
    targets = [
        Target(
            "load time with four times the expert bytes, same backbone",
            f"<= {LOAD_RATIO}x",
            f"{ratio:.2f}x",
            ratio <= LOAD_RATIO,
        ),
        Target(
            "load time grows with the backbone, same experts",
            "in the order of backbone bytes",
            f"{fit.slope * 1e9:.2f} s per GB on top of {fit.intercept:.2f} s",
            grows and fit.slope > 0,
        ),
    ]
    if all(row["bytes_read"] for row in rows):
        read = max(row["bytes_read"]["max"] / row["model"]["backbone_bytes"] for row in rows)
        targets.append(
            Target(
                "bytes read while loading (read-ahead included), as a multiple of the backbone's",
                f"<= {READ_RATIO}",
                f"{read:.2f}",
                read <= READ_RATIO,
            )
        )
    return targets


PIECES: dict[str, Callable[[Workshop], Result]] = {
    "spine-4gib": spine(4 * GIB),
    "spine-8gib": spine(8 * GIB),
    "accelerate": against_accelerate,
    "load-time": load_time,
    "clock": clock,
    "replay": speed,
    "recording": recording_cost,
    "trace-10m": ten_million,
    "locality": dial,
}

"""The simulator beside the engine: the same decisions, and how near its clock comes.

A trace is recorded on the real disk, always with the same setting. From it alone a cell is simulated; beside
it the engine runs the cell on devices of a fixed rate (`ThrottledMover`), which is what the simulator models,
and on the real disk, which it does not. Law A gives the engine the same tokens in every cell, so the routing
is the trace's. Every repeat records anew: machines drift, and the clock is only as good as the recorded one.
"""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import locum
from locum.bench.facts import circumstances
from locum.bench.record import Result, Row, Target, spread
from locum.bench.workshop import Workshop, say
from locum.engine.recording import recording
from locum.machine.disk import measure_disk
from locum.model.shipped import shipped_model
from locum.residency.ledger import Wave
from locum.residency.mover.throttled import ThrottledMover
from locum.simulate import Device, Setting, simulate
from locum.trace import Trace

RATES = (0.3e9, 1e9)
"""Bytes per second of the modelled devices."""
WITHIN = 0.10
PROMPT = "The function returns a list of the names in the current module, sorted in ascending order."


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting of the engine; `share` of all routed experts is the arena."""

    eviction: str
    prefetch: str
    wave: Wave
    share: str


BASE = Cell("lru", "next-gate", "rank", "50%")
"""How traces are recorded."""
DISTANCES = 3
CELLS: tuple[Cell, ...] = (
    Cell("lru", "none", "rank", "15%"),
    Cell("lru", "none", "rank", "50%"),
    Cell("lfu", "none", "bypass", "25%"),
    Cell("arc", "none", "rank", "25%"),
    Cell("lru", "next-gate", "rank", "25%"),
    Cell("lru", "next-gate", "bypass", "50%"),
    Cell("lfu", "next-gate:distance=2", "rank", "25%"),
    Cell("lfu-aging", "next-gate", "rank", "15%"),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and how much of it is run: `tokens` after a prompt of `prompt` tokens, in chunks; how often.

    A model that is so small that two threads mostly wait for each other is run with one.
    """

    name: str
    path: Path
    tokens: int
    prompt: int
    chunk: int
    repeats: int
    threads: int | str = "auto"


@dataclass(frozen=True, slots=True)
class Ran:
    """What the engine did in one cell."""

    log: list[Any]
    counts: tuple[int, int, int, int]
    """Hits, staged, misses, evicted."""
    tok_s: float
    arena: int


def run_engine(subject: Subject, cell: Cell, rate: float | None, into: Path, distances: int = 0) -> Ran:
    """Run a cell, reading at `rate` bytes per second at most, and keep its clock as a trace in `into`."""
    log: list[Any] = []
    with locum.load(
        subject.path,
        expert_memory=cell.share,
        context=subject.prompt + subject.tokens + 8,
        eviction=cell.eviction,
        prefetch=cell.prefetch,
        prefill_chunk=subject.chunk,
        threads=subject.threads,
        residents_options={"wave": cell.wave, "log": log},
    ) as engine:
        residents = engine.residents
        residency, keys = residents.residency, residents.residency.keys
        if rate is not None:
            residency.mover = ThrottledMover(residents.mover, keys.stored.__getitem__, rate)
        prompt = engine.tokenizer.encode(PROMPT)[: subject.prompt]
        with recording(engine, into, distances=distances, scores=False):
            engine.generate(prompt, max_tokens=subject.tokens, seed=1, temperature=1.0, ignore_eos=True)
        stats = residency.ledger.stats
        arena = residents.options.arena_bytes
    tok_s = Trace(into).decode_tok_s
    assert tok_s is not None
    return Ran(log, (stats.hits, stats.staged, stats.misses, stats.evicted), tok_s, arena)


@dataclass(frozen=True, slots=True)
class Compared:
    """The engine's tokens per second, the simulator's, and whether both decided alike."""

    engine: float
    simulated: float
    hit_rate: float | None
    decisions: int
    same: bool


def _compare(subject: Subject, cell: Cell, trace: Trace, rate: float | None, device: Device) -> Compared:
    with tempfile.TemporaryDirectory(dir=trace.path.parent) as folder:
        ran = run_engine(subject, cell, rate, Path(folder) / "cell")
    log: list[Any] = []
    setting = Setting(arena_bytes=ran.arena, eviction=cell.eviction, prefetch=cell.prefetch, wave=cell.wave)
    found = simulate(trace, setting, device, log=log)
    parts = (found.prefill, found.decode)
    totals = tuple(sum(getattr(p, name) for p in parts) for name in ("hits", "staged", "misses", "evicted"))
    assert found.decode.tok_s is not None
    same = log == ran.log and totals == ran.counts
    return Compared(ran.tok_s, found.decode.tok_s, found.decode.hit_rate, len(log), same)


def measure_cell(subject: Subject, cell: Cell) -> list[Row]:
    """The cell at every rate and on the real disk, each repeat beside a recording of its own."""
    found: dict[float | None, list[Compared]] = {rate: [] for rate in (*RATES, None)}
    for _ in range(subject.repeats):
        with tempfile.TemporaryDirectory(prefix="locum-clock-") as folder:
            base = Path(folder) / "base"
            run_engine(subject, BASE, None, base, distances=DISTANCES)
            trace = Trace(base)
            disk = measure_disk(subject.path, block=max(trace.meta.expert_bytes)).bytes_s
            for rate, compared in found.items():
                compared.append(_compare(subject, cell, trace, rate, Device(rate or disk)))
    return [_row(subject, cell, rate, compared) for rate, compared in found.items()]


def _row(subject: Subject, cell: Cell, rate: float | None, compared: Sequence[Compared]) -> Row:
    device = "real disk" if rate is None else f"{rate / 1e9:g} GB/s"
    errors = [each.simulated / each.engine - 1 for each in compared]
    row: Row = {
        "engine": "locum",
        "what": f"{subject.name}: {cell.eviction}, {cell.prefetch}, {cell.wave}, {cell.share}, {device}",
        "command": "python -m locum.bench.check clock",
        **circumstances(subject.path),
        "hit_rate": compared[0].hit_rate,
        "decode_tok_s": spread(each.engine for each in compared),
        "simulated_tok_s": spread(each.simulated for each in compared),
        "clock_error": spread(errors),
        "decisions": compared[0].decisions,
        "same": all(each.same for each in compared),
        "fixed_rate": rate is not None,
    }
    say(f"{row['what']}: clock off by {statistics.median(errors):+.1%}")
    return row


def clock(workshop: Workshop) -> Result:
    """The shipped model and the shape of a 7B model, every cell at two rates and on the real disk."""
    big = workshop.model("olmoe-1b-7b")
    subjects = (
        Subject("locum-tiny", shipped_model(), tokens=120, prompt=24, chunk=8, repeats=3, threads=1),
        Subject(big.name, big.path, tokens=16, prompt=4, chunk=2, repeats=1),
    )
    rows = [row for subject in subjects for cell in CELLS for row in measure_cell(subject, cell)]
    return Result(rows, targets(rows))


def targets(rows: Sequence[Row]) -> list[Target]:
    """Decisions equal everywhere; the clock near where the device is the one that is modelled."""
    errors = {fixed: [abs(r["clock_error"]["median"]) for r in rows if r["fixed_rate"] is fixed] for fixed in
              (True, False)}  # fmt: skip
    same = sum(row["same"] for row in rows)
    near = sum(error <= WITHIN for error in errors[True])
    told = f"{near} cells, median {statistics.median(errors[True]):.1%}, worst {max(errors[True]):.1%}"
    disk = f"median {statistics.median(errors[False]):.1%}, worst {max(errors[False]):.1%}"
    return [
        Target("every decision is the engine's", f"{len(rows)} cells", f"{same} cells", same == len(rows)),
        Target(
            f"tokens/s within {WITHIN:.0%} at a fixed rate",
            f"{len(errors[True])} cells",
            told,
            near == len(errors[True]),
        ),
        Target("tokens/s on the real disk, reported", "no bound", disk, True),
    ]

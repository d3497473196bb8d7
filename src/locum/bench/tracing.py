"""Traces at scale: ten million tokens written, read again and measured; what recording costs a run.

Axes: t rows, L layers, E experts, K chosen.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import locum
from locum.analyze import analyze
from locum.bench.facts import circumstances
from locum.bench.record import Result, Row, Target, spread
from locum.bench.workshop import Workshop, say
from locum.engine.recording import recording
from locum.machine.limits import peak_rss
from locum.trace import Rows, Trace, TraceMeta, TraceWriter
from locum.trace.columns import DECODE
from locum.units import format_bytes

TOKENS = 10_000_000
LAYERS, EXPERTS, TOP_K = 8, 32, 4
LENGTH = 512
"""Tokens of a request."""
SECONDS, MEMORY_GROWTH = 120.0, 1.25
_BLOCK = 1 << 14
_META = TraceMeta(
    model="made up", moe_layers=tuple(range(LAYERS)), experts=(EXPERTS,) * LAYERS, top_k=(TOP_K,) * LAYERS,
    columns=("token", "domain"),
)  # fmt: skip


def made_up(tokens: int, seed: int = 0) -> Iterator[Rows]:
    """Rows of requests of uneven load, each block with its experts renamed: cheap, and unlike each other."""
    rng = np.random.default_rng(seed)
    score_tLE = rng.standard_normal((_BLOCK, LAYERS, EXPERTS)) + rng.standard_normal((LAYERS, EXPERTS))
    pool_tLK = np.argpartition(-score_tLE, TOP_K, axis=2)[:, :, :TOP_K]
    names = np.array([f"domain {number}" for number in range(4)], object)
    for start in range(0, tokens, _BLOCK):
        count = min(_BLOCK, tokens - start)
        renamed_LE = rng.permuted(np.tile(np.arange(EXPERTS, dtype=np.int16), (LAYERS, 1)), axis=1)
        number_t = np.arange(start, start + count)
        yield Rows(
            request=(number_t // LENGTH).astype(np.int32),
            position=(number_t % LENGTH).astype(np.int32),
            step=number_t,
            phase=np.full(count, DECODE, np.uint8),
            experts=np.sort(renamed_LE[np.arange(LAYERS)[:, None], pool_tLK[:count]], axis=2),
            token=rng.integers(0, 50_000, count).astype(np.int32),
            domain=names[number_t // LENGTH % len(names)],
        )


def write(folder: Path, tokens: int) -> tuple[float, NDArray[np.int64]]:
    """Write such a trace. Returns the seconds that writing took, and the load [L, E], counted apart."""
    load_LE = np.zeros((LAYERS, EXPERTS), np.int64)
    seconds = 0.0
    with TraceWriter(folder, _META) as writer:
        for rows in made_up(tokens):
            for layer in range(LAYERS):
                load_LE[layer] += np.bincount(rows.experts[:, layer].reshape(-1), minlength=EXPERTS)
            began = time.perf_counter()
            writer.add(rows)
            seconds += time.perf_counter() - began
        began = time.perf_counter()
    return seconds + time.perf_counter() - began, load_LE


def ten_million(workshop: Workshop) -> Result:
    """Write, open and measure a tenth of the tokens, then all of them: time, memory, and the exact load."""
    rows: list[Row] = []
    for tokens in (TOKENS // 10, TOKENS):
        # each in a process of its own, whose peak is its own
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            figures = pool.submit(_write_and_measure, tokens, workshop.folder).result()
        rows.append({
            "engine": "locum",
            "what": f"{tokens:,} tokens of {LAYERS} layers x {EXPERTS} experts, top-{TOP_K}",
            "command": "python -m locum.bench.check trace-10m",
            **circumstances(workshop.folder),
            **figures,
        })  # fmt: skip
        write_s, analyze_s = figures["write_s"], figures["analyze_s"]
        say(f"{rows[-1]['what']}: {write_s:.1f} s to write, {analyze_s:.1f} s to measure")
    return Result(rows, _trace_targets(*rows))


def _write_and_measure(tokens: int, scratch: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        target = Path(folder) / "trace"
        written, load_LE = write(target, tokens)
        began = time.perf_counter()
        trace = Trace(target)
        opened = time.perf_counter() - began
        found = analyze(trace)
        analyzed = time.perf_counter() - began - opened
        size = sum(path.stat().st_size for path in target.iterdir())
    return {
        "write_s": written, "open_s": opened, "analyze_s": analyzed, "total_s": written + opened + analyzed,
        "trace_bytes": size, "peak_bytes": peak_rss(),
        "exact": found.tables["load"]["counts"] == load_LE.tolist(), "sample": found.sample,
        "note": f"curves from {found.sample['segments']} of {found.sample['of']} segments",
    }  # fmt: skip


def _trace_targets(small: Row, large: Row) -> list[Target]:
    growth = large["peak_bytes"] / small["peak_bytes"]
    return [
        Target(
            "written, opened again and measured",
            f"<= {SECONDS:.0f} s",
            f"{large['total_s']:.0f} s",
            large["total_s"] <= SECONDS,
        ),
        Target("the load, counted apart", "equal", "equal" if large["exact"] else "other", large["exact"]),
        Target(
            f"peak memory against a tenth of the tokens ({format_bytes(small['peak_bytes'])})",
            f"<= {MEMORY_GROWTH}x",
            f"{growth:.2f}x",
            growth <= MEMORY_GROWTH,
        ),
    ]


COST, PAIRS, RUN_TOKENS = 0.03, 5, 48
PROMPT = "The function returns a list of the names in the current module, sorted in ascending order."


def recording_cost(workshop: Workshop) -> Result:
    """Tokens per second of a 7B shape while a trace of it is recorded, against runs without; interleaved.

    Everything that `locum trace` records: three layers ahead, scores, tokens. Half of the experts are in
    memory; the tokens are the same in every run.
    """
    model = workshop.model("olmoe-1b-7b")
    plain, recorded = list[float](), list[float]()
    with locum.load(model.path, expert_memory="50%", context=256) as engine:

        def run() -> float:
            done = engine.generate(PROMPT, max_tokens=RUN_TOKENS, seed=1, temperature=1.0, ignore_eos=True)
            assert done.decode_tok_s is not None
            return done.decode_tok_s

        def record() -> float:
            with (
                tempfile.TemporaryDirectory(dir=workshop.folder) as folder,
                recording(engine, Path(folder) / "trace"),
            ):
                return run()

        run()  # the cache fills, the processor warms up
        for number in range(PAIRS):
            if number % 2:
                plain.append(run())
                recorded.append(record())
            else:
                recorded.append(record())
                plain.append(run())
    costs = [1 - new / old for new, old in zip(recorded, plain, strict=True)]
    cost = statistics.median(costs)
    row: Row = {
        "engine": "locum",
        "what": "recording everything, half of the experts in memory",
        "command": "python -m locum.bench.check recording",
        **circumstances(model.path),
        "model": model.facts(),
        "decode_tok_s": spread(recorded),
        "plain_tok_s": spread(plain),
        "cost": spread(costs),
        "repeats": PAIRS,
    }
    say(f"recording costs {cost:.1%}: {recorded} against {plain}")
    return Result([row], [Target("recording", f"<= {COST:.0%} of tokens/s", f"{cost:.1%}", cost <= COST)])

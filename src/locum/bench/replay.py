"""How many expert requests per second a core replays: natively, and through the Ledger itself.

Axes: A acquires, K requests of one.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from locum.bench.facts import circumstances
from locum.bench.record import Result, Row, Target, spread
from locum.bench.workshop import Workshop, say
from locum.native.replay import RECENCY, USES, lru_depths, replay
from locum.policy import create
from locum.residency.keys import GRAIN, KeyRange, KeySpace
from locum.residency.ledger import Ledger

LAYERS, EXPERTS, TOP_K = 16, 64, 8
KEYS = LAYERS * EXPERTS
TOKENS = 40_000
LEDGER_TOKENS = 4_000
SHARES = (0.12, 0.3, 0.7)
"""Of all experts in memory: hit rates of LRU from 0.15 to 0.9."""
REPEATS = 5
NATIVE, LRU, SCORED = 2e6, 0.5e6, 0.1e6
"""Wanted requests per second: natively, through the Ledger with LRU, and with policies that keep scores."""


def requests(tokens: int, seed: int = 0) -> NDArray[np.int32]:
    """[A, K] keys, ascending: token by token, layer by layer; uneven load, a choice in eight stays."""
    rng = np.random.default_rng(seed)
    load_LE = rng.standard_normal((LAYERS, EXPERTS)).astype(np.float32)
    chosen = np.empty((tokens, LAYERS, TOP_K), np.int32)
    before_LE = np.zeros((LAYERS, EXPERTS), np.float32)
    for token in range(tokens):
        score_LE = load_LE + rng.gumbel(size=(LAYERS, EXPERTS)).astype(np.float32) + before_LE
        chosen[token] = np.argpartition(-score_LE, TOP_K, axis=1)[:, :TOP_K]
        before_LE[:] = 0.0
        np.put_along_axis(before_LE, chosen[token], 1.0, axis=1)
    chosen += (np.arange(LAYERS, dtype=np.int32) * EXPERTS)[:, None]
    return np.sort(chosen, axis=2).reshape(-1, TOP_K)


def _rates(count: int, once: Callable[[], object]) -> list[float]:
    """Requests per second of processor time, several times."""
    once()
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        once()
        found.append(count / (time.process_time() - began))
    return found


def through_ledger(name: str, slots: int, keys_AK: list[list[int]]) -> float:
    """Replay through the Ledger with this policy; returns the hit rate."""
    ranges = [KeyRange(layer, layer * EXPERTS, GRAIN, (GRAIN,) * EXPERTS) for layer in range(LAYERS)]
    ledger = Ledger(KeySpace(ranges), [slots * GRAIN], create(name), provides={"counts"})
    info = {"counts": [1] * TOP_K}
    acquire, layers = ledger.acquire, range(LAYERS)
    for token in range(len(keys_AK) // LAYERS):
        ledger.step(token, 1, 1)
        for layer in layers:
            acquire(layer, keys_AK[token * LAYERS + layer], info)
    return ledger.stats.hit_rate


def speed(workshop: Workshop) -> Result:
    """Native passes and the Ledger on the same kind of requests, at several cache sizes."""
    keys_AK = requests(TOKENS)
    keys, starts = keys_AK.reshape(-1), np.arange(0, keys_AK.size + 1, TOP_K, dtype=np.int64)
    short = keys_AK[: LEDGER_TOKENS * LAYERS].tolist()
    rows, slowest = [], {"native": float("inf"), "lru": float("inf"), "scored": float("inf")}

    def add(what: str, kind: str, hit_rate: float | None, found: list[float]) -> None:
        row: Row = {
            "engine": "locum", "what": what, "command": "python -m locum.bench.check replay",
            **circumstances(workshop.folder), "hit_rate": hit_rate, "requests_s": spread(found),
        }  # fmt: skip
        rows.append(row)
        slowest[kind] = min(slowest[kind], row["requests_s"]["median"])
        say(f"{what}: {row['requests_s']['median'] / 1e6:.2f} M requests/s")

    add("native, LRU, all sizes at once", "native", None,
        _rates(len(keys), lambda: lru_depths(keys, starts, KEYS)))  # fmt: skip
    for share in SHARES:
        slots = round(share * KEYS)
        for name, kind in (("LRU", RECENCY), ("LFU", USES)):
            hits, _, _ = replay(keys, starts, KEYS, kind, slots)
            found = _rates(len(keys), partial(replay, keys, starts, KEYS, kind, slots))
            add(f"native, {name}, {share:.0%} in memory", "native", hits / len(keys), found)
        for name in ("lru", "lfu", "lfu-aging", "arc"):
            rate = through_ledger(name, slots, short)
            found = _rates(len(short) * TOP_K, partial(through_ledger, name, slots, short))
            add(f"Ledger, {name}, {share:.0%} in memory", "lru" if name == "lru" else "scored", rate, found)
    return Result(rows, [
        Target("native passes", f">= {NATIVE / 1e6} M requests/s", f"{slowest['native'] / 1e6:.1f} M",
               slowest["native"] >= NATIVE),
        Target("the Ledger with LRU", f">= {LRU / 1e6} M requests/s", f"{slowest['lru'] / 1e6:.2f} M",
               slowest["lru"] >= LRU),
        Target("the Ledger with policies that keep scores", f">= {SCORED / 1e6} M requests/s",
               f"{slowest['scored'] / 1e6:.2f} M", slowest["scored"] >= SCORED),
    ])  # fmt: skip

"""Traces to test with, made of nothing but random numbers and plain loops."""

from pathlib import Path
from typing import Any

import numpy as np

from locum.trace import Rows, Trace, TraceMeta, TraceWriter


def meta_of(layers: int = 2, experts: int = 6, top_k: int = 2, **other: Any) -> TraceMeta:
    return TraceMeta(
        model="test", moe_layers=tuple(range(1, layers + 1)), experts=(experts,) * layers,
        top_k=(top_k,) * layers, **other,
    )  # fmt: skip


def rows_of(ids: Any, meta: TraceMeta, start: int = 0, **other: Any) -> Rows:
    """Rows from chosen ids [t, L, K]: one request, one token a step from `start` on, decoding."""
    experts = np.asarray(ids, np.int16)
    count = len(experts)
    made: dict[str, Any] = {
        "request": np.zeros(count, np.int32), "position": np.arange(start, start + count, dtype=np.int32),
        "step": np.arange(start, start + count, dtype=np.int64), "phase": np.ones(count, np.uint8),
        "experts": experts,
    }  # fmt: skip
    return Rows(**(made | other))


def random_rows(meta: TraceMeta, count: int, seed: int = 0, skips: float = 0.0, start: int = 0) -> Rows:
    """Every optional column of `meta` filled; with `skips`, some choices are none."""
    from locum.trace.columns import BY_NAME

    random = np.random.default_rng(seed)
    sizes = meta.sizes
    ids = np.full((count, sizes["L"], sizes["K"]), -1)
    for row in range(count):
        for layer, (k, e) in enumerate(zip(meta.top_k, meta.experts, strict=True)):
            chosen = random.permutation(e)[:k]
            kept = chosen[random.random(k) >= skips]
            ids[row, layer, : len(kept)] = kept
    other: dict[str, Any] = {}
    for name in meta.columns:
        column = BY_NAME[name]
        shape = (count, *column.shape(meta))
        if column.dtype == "str":
            other[name] = np.array([["de", "fr", None][n] for n in random.integers(0, 3, count)], object)
        elif column.dtype.startswith("int"):
            other[name] = random.integers(0, min(meta.experts), shape).astype(column.dtype)
        else:
            other[name] = random.random(shape).astype(column.dtype)
    if "native_experts" in other:
        other["native_experts"] = ids.astype(np.int16)
    return rows_of(ids, meta, start, **other)


def write_trace(folder: Path, meta: TraceMeta, *parts: Rows) -> Trace:
    with TraceWriter(folder, meta) as writer:
        for rows in parts:
            writer.add(rows)
    return Trace(folder)

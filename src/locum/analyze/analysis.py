"""All metrics of a trace in one pass over it."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from locum.analyze.base import Metric
from locum.analyze.caching import hit_curves
from locum.analyze.locality import segment_cache, segment_routing
from locum.analyze.segments import LEAST, Segments
from locum.errors import UsageError
from locum.trace import Trace

METRICS: Mapping[str, str] = {
    "load": "load.Load",
    "coverage": "coverage.Coverage",
    "reuse": "reuse.Reuse",
    "coactivation": "affinity.Coactivation",
    "transitions": "affinity.Transitions",
    "domains": "specialisation.Domains",
    "vocabulary": "specialisation.Vocabulary",
    "predictions": "predictions.Predictions",
    "entropy": "doubt.Entropy",
    "margin": "doubt.Margin",
}
"""Streaming metrics by name; a new one is a file and a line here."""

_SAMPLED: Mapping[str, Callable[..., dict[str, Any]]] = {
    "caching": hit_curves, "srp": segment_routing, "sch": segment_cache,
}  # fmt: skip
"""What is measured on a sample of segments."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Results by name of the metric. `lacking`: metrics the trace has no columns for, and which."""

    tables: dict[str, dict[str, Any]]
    lacking: dict[str, str]
    sample: dict[str, int]
    """`segments` measured, `of` how many, and the `tokens` of all of them."""


def make(name: str, trace: Trace) -> Metric:
    """A fresh metric. Raises `TraceError` when the trace lacks what it needs."""
    metric = _class_of(name)
    trace.require(name, *metric.needs)
    return metric(trace.meta)


def analyze(
    trace: Trace,
    names: Sequence[str] | None = None,
    *,
    segments: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Analysis:
    """Measure `names`, or everything the trace has columns for. `progress` hears (rows done, rows).

    Raises `UsageError` for a name that is none, `TraceError` when a metric asked for by name lacks a column.
    """
    known = [*METRICS, *_SAMPLED]
    if unknown := [name for name in names or () if name not in known]:
        raise UsageError("no such metric", allowed=", ".join(known), got=", ".join(unknown))
    asked, lacking, metrics = list(names or known), dict[str, str](), dict[str, Metric]()
    for name in [name for name in asked if name in METRICS]:
        missing = trace.lacks(*_class_of(name).needs)
        if missing and names is None:
            lacking[name] = ", ".join(missing)
        else:
            metrics[name] = make(name, trace)
    sampled = [name for name in asked if name in _SAMPLED]
    if sampled and names is not None:
        trace.require(sampled[0], "experts")
    elif sampled and trace.lacks("experts"):
        lacking |= dict.fromkeys(sampled, "experts")
        sampled = []
    sample = Segments(limit=segments) if sampled else None
    asks = {column for metric in metrics.values() for column in (*metric.needs, *metric.takes)}
    columns = sorted(asks.intersection(trace.meta.columns))
    done = 0
    for rows in trace.batches(columns):
        for metric in metrics.values():
            metric.update(rows)
        if sample is not None:
            sample.add(rows)
        done += len(rows)
        if progress is not None:
            progress(done, trace.rows)
    tables = {name: metric.result() for name, metric in metrics.items()}
    if sample is not None:
        sample.finish()
        if not sample.found:
            lacking |= dict.fromkeys(sampled, f"{LEAST} tokens in a row of one request")
        for name in sampled if sample.found else ():
            tables[name] = _SAMPLED[name](sample, trace.meta)
    facts = (
        {} if sample is None else {"segments": len(sample.found), "of": sample.total, "tokens": sample.tokens}
    )
    return Analysis(tables, lacking, facts)


def _class_of(name: str) -> type[Metric]:
    module, _, cls = METRICS[name].partition(".")
    found: type[Metric] = getattr(importlib.import_module(f"locum.analyze.{module}"), cls)
    return found

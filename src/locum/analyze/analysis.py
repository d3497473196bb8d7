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
    metrics, sampled, lacking = _choose(trace, names)
    sample = Segments(limit=segments) if sampled else None
    asks = {column for metric in metrics.values() for column in (*metric.needs, *metric.takes)}
    done = 0
    for rows in trace.batches(sorted(asks.intersection(trace.meta.columns))):
        for metric in metrics.values():
            metric.update(rows)
        if sample is not None:
            sample.add(rows)
        done += len(rows)
        if progress is not None:
            progress(done, trace.rows)
    tables = {name: metric.result() for name, metric in metrics.items()}
    if sample is None:
        return Analysis(tables, lacking, {})
    sample.finish()
    if sample.found:
        tables |= {name: _SAMPLED[name](sample, trace.meta) for name in sampled}
    else:
        lacking |= dict.fromkeys(sampled, f"{LEAST} tokens in a row of one request")
    facts = {"segments": len(sample.found), "of": sample.total, "tokens": sample.tokens}
    return Analysis(tables, lacking, facts)


def require(trace: Trace, names: Sequence[str] | None) -> None:
    """Raises what `analyze` would raise for these names, before anything is read."""
    _choose(trace, names)


def _choose(trace: Trace, names: Sequence[str] | None) -> tuple[dict[str, Metric], list[str], dict[str, str]]:
    """(streaming metrics, names of sampled ones, what the trace lacks for the others). What was asked for by
    name must be there.
    """
    known = [*METRICS, *_SAMPLED]
    if unknown := [name for name in names or () if name not in known]:
        raise UsageError("no such metric", allowed=", ".join(known), got=", ".join(unknown))
    metrics, sampled, lacking = dict[str, Metric](), list[str](), dict[str, str]()
    for name in names or known:
        needs = _class_of(name).needs if name in METRICS else ("experts",)
        if names is not None:
            trace.require(name, *needs)
        if missing := trace.lacks(*needs):
            lacking[name] = ", ".join(missing)
        elif name in METRICS:
            metrics[name] = _class_of(name)(trace.meta)
        else:
            sampled.append(name)
    return metrics, sampled, lacking


def _class_of(name: str) -> type[Metric]:
    module, _, cls = METRICS[name].partition(".")
    found: type[Metric] = getattr(importlib.import_module(f"locum.analyze.{module}"), cls)
    return found

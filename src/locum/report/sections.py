"""What a page is made of: a trace with what was found in it, and one section per chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from locum.report import charts
from locum.report.findings import Tables
from locum.trace import TraceMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """One trace of a page. `name` tells it from the others; `facts`: what to say of it; `lacking`: metrics it
    could not answer, and why.
    """

    name: str
    rows: int
    meta: TraceMeta
    tables: Tables
    facts: Sequence[tuple[str, str]] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """One chart with its words. `rows`: the figures behind it, heads first."""

    key: str
    title: str
    words: str
    spec: Mapping[str, Any]
    rows: Sequence[Sequence[Any]]


def sections(tables: Tables, meta: TraceMeta) -> list[Section]:
    """The sections of one trace: those that its tables can fill."""
    makers = (_caching, _load, _coverage, _recall, _consistency)
    return [section for make in makers if (section := make(tables, meta)) is not None]


def _caching(tables: Tables, meta: TraceMeta) -> Section | None:
    found = tables.get("caching")
    if found is None:
        return None
    slot = sum(meta.slot_bytes) / len(meta.slot_bytes) if meta.slot_bytes else None
    spec = charts.hit_curves(found, tables.get("sch"), layers=len(meta.experts), slot_bytes=slot)
    rows: list[Sequence[Any]] = [("experts per layer", "lru", "lfu", "belady", "random")]
    rows += [
        (
            n,
            *(percent(found[name]["rate"][n - 1]) for name in ("lru", "lfu", "belady")),
            percent(found["random"][n - 1]),
        )
        for n in range(1, len(found["random"]) + 1)
    ]
    words = (
        "Each layer has a cache of its own, each token asks for its experts at once, each segment of text "
        "begins with an empty cache. Bands are 95% intervals over segments. The dashed line is what any "
        "policy gets when there is no pattern."
    )
    return Section("caching", "What a cache would hit", words, spec, rows)


def _load(tables: Tables, meta: TraceMeta) -> Section | None:
    found = tables.get("load")
    if found is None:
        return None
    rows: list[Sequence[Any]] = [("layer", "Gini", "busiest over mean", "never used")]
    figures = zip(meta.moe_layers, found["gini"], found["max_over_mean"], found["unused"], strict=True)
    rows += [(layer, figure(gini), figure(ratio), unused) for layer, gini, ratio, unused in figures]
    words = "How often each expert was chosen, over what would be even. Each row is a layer, sorted by load."
    return Section("load", "Load of the experts", words, charts.load_heatmap(found, meta.moe_layers), rows)


def _coverage(tables: Tables, meta: TraceMeta) -> Section | None:
    found = tables.get("coverage")
    if found is None:
        return None
    rows = [
        ("tokens", "experts needed"),
        *((t, percent(s)) for t, s in zip(found["tokens"], found["all"], strict=True)),
    ]
    words = "The share of all experts that were needed at least once. The band spans the layers."
    return Section("coverage", "How many experts are needed at all", words, charts.coverage(found), rows)


def _recall(tables: Tables, meta: TraceMeta) -> Section | None:
    found = tables.get("predictions")
    if found is None:
        return None
    rows: list[Sequence[Any]] = [("layers ahead", "recall", "precision", "F1")]
    figures = zip(found["recall"], found["precision"], found["f1"], strict=True)
    rows += [(n, *map(percent, row)) for n, row in enumerate(figures, 1)]
    words = (
        "The routers of the next layers, asked with the present layer's input. Dashed: the recall of always "
        "naming the busiest experts."
    )
    return Section("recall", "How well the next layers are foreseen", words, charts.recall(found), rows)


def _consistency(tables: Tables, meta: TraceMeta) -> Section | None:
    found = tables.get("srp")
    if not found:
        return None
    rows: list[Sequence[Any]] = [("tokens", "SRP", "interval", "kept over chosen", "shuffled")]
    rows += [
        (
            m,
            percent(x["model"]),
            " to ".join(map(percent, x["ci"])),
            figure(x["kept"]),
            percent(x["random"]),
        )
        for m, x in found.items()
    ]
    words = (
        "How well one fixed choice of experts can serve so many tokens in a row: the best F1 that any rule "
        "reaches (SRP, arXiv 2505.16056), beside the same tokens in random order."
    )
    return Section("consistency", "Local routing consistency", words, charts.consistency(found), rows)


def percent(value: float | None) -> str:
    """A share for a table; empty where there is none."""
    return "" if value is None else f"{value:.1%}"


def figure(value: float | None) -> str:
    """A number for a table; empty where there is none."""
    return "" if value is None else f"{value:.2f}"


def span(numbers: Sequence[int]) -> str:
    """`8`, or `4 to 8`."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"

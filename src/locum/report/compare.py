"""Several traces beside each other: a table, and charts with a line per trace.

Models differ in layers and experts, so everything here is a share: of the experts in memory, of the way
through the layers, of what was chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from locum.report.charts import beside
from locum.report.sections import Reported, Section, figure, percent, span
from locum.units import format_bytes

_NONE = "\N{EN DASH}"
_WELL = 0.9
"""The hit rate that the table asks the price of."""
_SHARES: dict[str, Any] = {"scale": {"domain": [0, 1]}, "axis": {"format": "%", "tickCount": 10}}


def overview(traces: Sequence[Reported]) -> list[list[str]]:
    """The figures that a reader would compare first: a row per figure, a column per trace, names first."""
    rows: list[tuple[str, Callable[[Reported], str]]] = [
        ("tokens", lambda t: f"{t.rows:,}"),
        ("MoE layers", lambda t: str(len(t.meta.experts))),
        ("experts per layer", lambda t: span(t.meta.experts)),
        ("chosen per token", lambda t: span(t.meta.top_k)),
        ("an expert", lambda t: format_bytes(max(t.meta.expert_bytes)) if t.meta.expert_bytes else ""),
        ("LRU hits, 25% of the experts in memory", lambda t: percent(_at(t, "lru", 1 / 4))),
        ("best possible hits, 25% in memory", lambda t: percent(_at(t, "belady", 1 / 4))),
        ("LRU hits, 50% in memory", lambda t: percent(_at(t, "lru", 1 / 2))),
        (f"in memory for {_WELL:.0%} hits, LRU", lambda t: percent(_price(t))),
        ("routing consistency, 16 tokens (SRP)", lambda t: percent(_srp(t, "model"))),
        ("the same tokens shuffled", lambda t: percent(_srp(t, "random"))),
        ("unevenness of the load (Gini), mean of the layers", lambda t: figure(_mean(t, "gini"))),
        ("busiest expert over an even load, mean", lambda t: figure(_mean(t, "max_over_mean"))),
        ("next layer foreseen (recall)", lambda t: percent(_foreseen(t))),
        ("by always naming the busiest", lambda t: percent(t.tables.get("predictions", {}).get("popular"))),
        ("experts needed at least once", lambda t: percent(_needed(t))),
    ]
    lines = [[name, *(make(trace) or _NONE for trace in traces)] for name, make in rows]
    return [["", *(trace.name for trace in traces)], *(x for x in lines if set(x[1:]) != {_NONE})]


def compared(traces: Sequence[Reported]) -> list[Section]:
    """The charts that at least two of the traces can fill."""
    made = [make(traces) for make in (_caching, _consistency, _load, _recall)]
    return [section for section in made if section is not None]


def share(trace: Reported, size: int) -> float:
    """Of all experts, those that caches of `size` per layer hold."""
    return sum(min(size, experts) for experts in trace.meta.experts) / sum(trace.meta.experts)


def _at(trace: Reported, policy: str, part: float) -> float | None:
    """The hit rate with at most this part of the experts in memory."""
    if "caching" not in trace.tables:
        return None
    rates: Sequence[float | None] = trace.tables["caching"][policy]["rate"]
    within = [rate for size, rate in enumerate(rates, 1) if share(trace, size) <= part]
    return within[-1] if within else None


def _price(trace: Reported) -> float | None:
    """The least part of the experts with which LRU hits so often."""
    rates = trace.tables["caching"]["lru"]["rate"] if "caching" in trace.tables else ()
    enough = (size for size, rate in enumerate(rates, 1) if rate is not None and rate >= _WELL)
    size = next(enough, None)
    return None if size is None else share(trace, size)


def _srp(trace: Reported, who: str) -> float | None:
    found: float | None = trace.tables.get("srp", {}).get("16", {}).get(who)
    return found


def _mean(trace: Reported, name: str) -> float | None:
    figures = [x for x in trace.tables.get("load", {}).get(name, ()) if x is not None]
    return sum(figures) / len(figures) if figures else None


def _foreseen(trace: Reported) -> float | None:
    recall: Sequence[float | None] = trace.tables.get("predictions", {}).get("recall", ())
    return recall[0] if recall else None


def _needed(trace: Reported) -> float | None:
    found = trace.tables.get("coverage")
    return float(found["all"][-1]) if found else None


def _section(
    traces: Sequence[Reported],
    points: Callable[[Reported], list[dict[str, Any]]],
    words: tuple[str, str, str],
    heads: Sequence[str],
    cells: Callable[[Mapping[str, Any]], Sequence[Any]],
    **chart: Any,
) -> Section | None:
    """One chart: `words` are its key, title and text; `cells` a row of its table beside the trace's name."""
    found = {trace.name: points(trace) for trace in traces}
    if sum(map(bool, found.values())) < 2:
        return None
    values = [{"t": name, **point} for name, mine in found.items() for point in mine]
    lacking = [name for name, mine in found.items() if not mine]
    key, title, text = words
    if lacking:
        text += f" Not measured in {', '.join(lacking)}."
    rows = [("trace", *heads), *((value["t"], *cells(value)) for value in values)]
    return Section(f"all-{key}", title, text, beside(values, list(found), **chart), rows)


def _caching(traces: Sequence[Reported]) -> Section | None:
    def points(trace: Reported) -> list[dict[str, Any]]:
        if "caching" not in trace.tables:
            return []
        lru = trace.tables["caching"]["lru"]
        figures = enumerate(zip(lru["rate"], lru["low"], lru["high"], strict=True), 1)
        return [
            {"x": round(share(trace, n), 4), "y": rate, "low": low, "high": high, "n": n}
            for n, (rate, low, high) in figures
            if rate is not None
        ]

    words = (
        "Caches of equal size in all layers, each segment of text beginning with empty ones, against the "
        "share of the experts that they hold. Bands are 95% intervals over segments. A curve begins where "
        "one token's experts fit."
    )
    return _section(
        traces, points, ("caching", "What LRU would hit", words),
        ("experts per layer", "of all experts", "LRU hits"),
        lambda v: (v["n"], percent(v["x"]), percent(v["y"])),
        x={"title": "share of the experts in memory", **_SHARES},
        y="hit rate", tooltip=[("n", "experts per layer", "d"), ("x", "of all", ".1%"), ("y", "hits", ".1%")],
        dots=False,
    )  # fmt: skip


def _consistency(traces: Sequence[Reported]) -> Section | None:
    def points(trace: Reported) -> list[dict[str, Any]]:
        return [
            {"x": int(length), "y": found["model"], "random": found["random"]}
            for length, found in trace.tables.get("srp", {}).items()
            if found["model"] is not None
        ]

    lengths = sorted({point["x"] for trace in traces for point in points(trace)})
    words = (
        "How well one fixed choice of experts can serve so many tokens in a row: the best F1 that any rule "
        "reaches (SRP, arXiv 2505.16056). A model that chooses a larger part of its experts scores higher by "
        "chance alone: the table has the same tokens shuffled beside it."
    )
    return _section(
        traces, points, ("consistency", "Local routing consistency", words), ("tokens", "SRP", "shuffled"),
        lambda v: (v["x"], percent(v["y"]), percent(v["random"])),
        x={"title": "tokens that keep one choice", "scale": {"type": "log", "base": 4},
           "axis": {"values": lengths}},
        y="best F1 (SRP)",
        tooltip=[("x", "tokens", "d"), ("y", "SRP", ".1%"), ("random", "tokens shuffled", ".1%")],
    )  # fmt: skip


def _load(traces: Sequence[Reported]) -> Section | None:
    def points(trace: Reported) -> list[dict[str, Any]]:
        gini = trace.tables.get("load", {}).get("gini", ())
        last = max(1, len(gini) - 1)
        return [
            {"x": round(place / last, 4), "y": value, "l": layer}
            for place, (layer, value) in enumerate(zip(trace.meta.moe_layers, gini, strict=False))
            if value is not None
        ]

    words = (
        "The Gini coefficient of each layer's load: 0 when all its experts are chosen equally often, near 1 "
        "when few get everything. From the first MoE layer (0%) to the last (100%). Short traces look more "
        "uneven than they are."
    )
    return _section(
        traces, points, ("load", "How uneven the load is", words), ("layer", "depth", "Gini"),
        lambda v: (v["l"], percent(v["x"]), figure(v["y"])),
        x={"title": "depth among the MoE layers", **_SHARES},
        y="Gini coefficient", share=False,
        tooltip=[("l", "layer", "d"), ("x", "depth", ".0%"), ("y", "Gini", ".2f")],
    )  # fmt: skip


def _recall(traces: Sequence[Reported]) -> Section | None:
    def points(trace: Reported) -> list[dict[str, Any]]:
        found = trace.tables.get("predictions", {})
        return [
            {"x": distance, "y": value, "popular": found["popular"]}
            for distance, value in enumerate(found.get("recall", ()), 1)
            if value is not None
        ]

    distances = sorted({point["x"] for trace in traces for point in points(trace)})
    words = (
        "The routers of the next layers, asked with the present layer's input: the share of the chosen "
        "experts that they name. The table has the recall of always naming the busiest experts beside it."
    )
    return _section(
        traces, points, ("recall", "How well the next layers are foreseen", words),
        ("layers ahead", "recall", "naming the busiest"),
        lambda v: (v["x"], percent(v["y"]), percent(v["popular"])),
        x={"title": "layers ahead", "axis": {"values": distances, "format": "d"}}, y="recall",
        tooltip=[("x", "layers ahead", "d"), ("y", "recall", ".1%"), ("popular", "busiest", ".1%")],
    )  # fmt: skip

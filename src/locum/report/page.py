"""The page: findings, charts, tables, in one file with everything inside."""

import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, select_autoescape

from locum.errors import UsageError
from locum.files import write_text
from locum.report import charts
from locum.report.findings import Tables, findings
from locum.trace import TraceMeta
from locum.units import format_bytes


@dataclass(frozen=True, slots=True)
class Section:
    """One chart with its words. `rows`: the figures behind it, heads first."""

    key: str
    title: str
    words: str
    spec: Mapping[str, Any]
    rows: Sequence[Sequence[Any]]


def report_page(
    tables: Tables, meta: TraceMeta, facts: Sequence[tuple[str, str]], lacking: Mapping[str, str]
) -> str:
    """The page as HTML. `facts`: what to say of the trace; `lacking`: metrics it could not answer, and why.

    Raises `UsageError` where the chart library is not installed.
    """
    environment = Environment(
        autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True
    )
    text = (importlib.resources.files("locum.report") / "page.html.j2").read_text(encoding="utf-8")
    sections = _sections(tables, meta)
    specs = {section.key: section.spec for section in sections}
    return environment.from_string(text).render(
        title=f"Routing of {meta.model or 'a model'}",
        facts=[*facts, *_shape(meta)],
        findings=findings(tables, meta),
        sections=sections,
        lacking=lacking,
        specs=json.dumps(specs, separators=(",", ":")).replace("<", "\\u003c"),
        runtime=re.sub("</(script)", r"<\\/\1", _runtime(), flags=re.IGNORECASE),
    )


def write_report(
    target: Path,
    tables: Tables,
    meta: TraceMeta,
    facts: Sequence[tuple[str, str]],
    lacking: Mapping[str, str],
) -> None:
    """Write the page to `target`, whole or not at all."""
    write_text(target, report_page(tables, meta, facts, lacking))


def _runtime() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    try:
        import vl_convert
    except ImportError as error:
        raise UsageError(
            "reports need the chart library", todo="Install it: pip install 'locum[report]'"
        ) from error
    found: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return found


def _shape(meta: TraceMeta) -> list[tuple[str, str]]:
    experts, top_k = (_span(numbers) for numbers in (meta.experts, meta.top_k))
    facts = [("MoE layers", f"{len(meta.experts)}, with {experts} experts each, {top_k} chosen per token")]
    if meta.expert_bytes:
        facts.append(("an expert", f"{format_bytes(max(meta.expert_bytes))} on disk"))
    return facts


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _sections(tables: Tables, meta: TraceMeta) -> list[Section]:
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
            *(_percent(found[name]["rate"][n - 1]) for name in ("lru", "lfu", "belady")),
            _percent(found["random"][n - 1]),
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
    rows += [(layer, _figure(gini), _figure(ratio), unused) for layer, gini, ratio, unused in figures]
    words = "How often each expert was chosen, over what would be even. Each row is a layer, sorted by load."
    return Section("load", "Load of the experts", words, charts.load_heatmap(found, meta.moe_layers), rows)


def _coverage(tables: Tables, meta: TraceMeta) -> Section | None:
    found = tables.get("coverage")
    if found is None:
        return None
    rows = [
        ("tokens", "experts needed"),
        *((t, _percent(s)) for t, s in zip(found["tokens"], found["all"], strict=True)),
    ]
    words = "The share of all experts that were needed at least once. The band spans the layers."
    return Section("coverage", "How many experts are needed at all", words, charts.coverage(found), rows)


def _recall(tables: Tables, meta: TraceMeta) -> Section | None:
    found = tables.get("predictions")
    if found is None:
        return None
    rows: list[Sequence[Any]] = [("layers ahead", "recall", "precision", "F1")]
    figures = zip(found["recall"], found["precision"], found["f1"], strict=True)
    rows += [(n, *map(_percent, row)) for n, row in enumerate(figures, 1)]
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
            _percent(x["model"]),
            " to ".join(map(_percent, x["ci"])),
            _figure(x["kept"]),
            _percent(x["random"]),
        )
        for m, x in found.items()
    ]
    words = (
        "How well one fixed choice of experts can serve so many tokens in a row: the best F1 that any rule "
        "reaches (SRP, arXiv 2505.16056), beside the same tokens in random order."
    )
    return Section("consistency", "Local routing consistency", words, charts.consistency(found), rows)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

"""The page: findings, charts, tables, in one file with everything inside."""

import importlib.resources
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, select_autoescape

from locum.errors import UsageError
from locum.files import write_text
from locum.report.compare import compared, overview
from locum.report.findings import findings
from locum.report.sections import Reported, Section, sections, span
from locum.trace import TraceMeta
from locum.units import format_bytes


@dataclass(frozen=True, slots=True)
class _Chapter:
    """What the page says of one trace."""

    name: str
    facts: Sequence[tuple[str, str]]
    findings: Sequence[str]
    sections: Sequence[Section]
    lacking: Sequence[tuple[str, str]]


def report_page(traces: Sequence[Reported]) -> str:
    """The page as HTML: of one trace what it shows; of several a comparison, then each by itself.

    Raises `UsageError` where the chart library is not installed.
    """
    environment = Environment(
        autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True
    )
    text = (importlib.resources.files("locum.report") / "page.html.j2").read_text(encoding="utf-8")
    several = len(traces) > 1
    chapters = [_chapter(trace, f"{n}-" if several else "") for n, trace in enumerate(traces, 1)]
    comparison = compared(traces) if several else []
    specs = {s.key: s.spec for s in (*comparison, *(s for chapter in chapters for s in chapter.sections))}
    return environment.from_string(text).render(
        title=_title(traces),
        chapters=chapters,
        overview=overview(traces) if several else None,
        comparison=comparison,
        specs=json.dumps(specs, separators=(",", ":")).replace("<", "\\u003c"),
        runtime=re.sub("</(script)", r"<\\/\1", _runtime(), flags=re.IGNORECASE),
    )


def write_report(target: Path, traces: Sequence[Reported]) -> None:
    """Write the page to `target`, whole or not at all."""
    write_text(target, report_page(traces))


def require_charts() -> Any:
    """The chart library. Raises `UsageError` where it is not installed."""
    try:
        import vl_convert
    except ImportError as error:
        raise UsageError(
            "reports need the chart library", todo="Install it: pip install 'locum[report]'"
        ) from error
    return vl_convert


def _runtime() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    found: str = require_charts().javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return found


def _title(traces: Sequence[Reported]) -> str:
    if len(traces) == 1:
        return f"Routing of {traces[0].meta.model or 'a model'}"
    if len(traces) == 2:
        return f"Routing of {traces[0].name} and {traces[1].name}"
    return f"Routing of {len(traces)} traces"


def _chapter(trace: Reported, prefix: str) -> _Chapter:
    found = sections(trace.tables, trace.meta)
    return _Chapter(
        name=trace.name,
        facts=[*trace.facts, *_shape(trace.meta)],
        findings=findings(trace.tables, trace.meta),
        sections=[replace(section, key=prefix + section.key) for section in found],
        lacking=list(trace.lacking.items()),
    )


def _shape(meta: TraceMeta) -> list[tuple[str, str]]:
    experts, top_k = (span(numbers) for numbers in (meta.experts, meta.top_k))
    facts = [("MoE layers", f"{len(meta.experts)}, with {experts} experts each, {top_k} chosen per token")]
    if meta.expert_bytes:
        facts.append(("an expert", f"{format_bytes(max(meta.expert_bytes))} on disk"))
    return facts

"""`locum report`: one trace, or several side by side, as one page to look at."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from locum.cli.flags import number
from locum.cli.output import DEFAULT, Output, OutputOptions
from locum.cli.traces import names_of, open_traces
from locum.errors import UsageError

if TYPE_CHECKING:
    from locum.analyze import Analysis
    from locum.report import Reported
    from locum.trace import Trace

_WHAT = Group("What is written", sort_key=5)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What `locum report` was asked to do; fields are named as the flags."""

    output: Annotated[Path | None, Parameter(name=["--output", "-o"], group=_WHAT, metavar="FILE")] = None
    """The page to write, replacing what is there. Left out, only the findings are printed."""

    metric: Annotated[tuple[str, ...], Parameter(group=_WHAT, metavar="NAME", show_default=False)] = ()
    """Only this metric. May be given several times; a wrong name lists them all."""

    segments: Annotated[int, number(_WHAT, "N", gte=1)] = 256
    """Hit curves and routing consistency are measured on so many segments of at most 512 tokens, drawn at
    random."""


def report(
    traces: tuple[Path, ...],
    /,
    *,
    options: ReportOptions = ReportOptions(),
    output_options: OutputOptions = DEFAULT,
) -> None:
    """Say what a trace shows: what caches of each size would hit, how even the load is, what can be foreseen.

    Several traces, of one model or of different ones, are first set side by side.

    Parameters
    ----------
    traces
        A trace: the folder, or a file that was exported from one. Of several, the page compares them first.
    """
    with Output(output_options) as output:
        from locum.analyze import require
        from locum.report import Reported, require_charts, write_report

        found = open_traces(traces, output)  # what is wrong should not have to wait for the first one
        for trace in found:
            require(trace, options.metric or None)
        if options.output is not None:
            _require_page(options.output, traces)
            require_charts()
        label = "reading the trace" if len(found) == 1 else f"reading {len(found)} traces"
        with output.counting(label, sum(trace.rows for trace in found)) as heard:
            analyses = _analyse(found, options, heard)
        reported = [
            Reported(
                name=name, rows=trace.rows, meta=trace.meta, tables=analysis.tables,
                facts=_facts(trace, analysis), lacking=analysis.lacking,
            )
            for name, trace, analysis in zip(names_of(found), found, analyses, strict=True)
        ]  # fmt: skip
        if options.output is not None:
            write_report(options.output, reported)
            output.note(f"wrote {options.output}")
        _tell(reported, found, analyses, options.output, output)


def _analyse(
    traces: "Sequence[Trace]", options: ReportOptions, heard: Callable[[int], None]
) -> "list[Analysis]":
    """Each trace by itself; `heard` counts the rows of all."""
    from locum.analyze import analyze

    found: list[Analysis] = []
    before = 0

    def progress(done: int, _rows: int) -> None:
        heard(before + done)

    for trace in traces:
        found.append(analyze(trace, options.metric or None, segments=options.segments, progress=progress))
        before += trace.rows
    return found


def _require_page(target: Path, traces: Sequence[Path]) -> None:
    """Raises `UsageError` where the page cannot be written, or would take the place of a trace's own file."""
    todo = "Name another file, such as report.html"
    if target.is_dir():
        raise UsageError("the page is to be a file", where=target, got="a folder", todo=todo)
    place = target.resolve()
    for trace in traces:
        if trace.resolve() in (place, *place.parents):
            raise UsageError(
                "the page would lie in a trace", where=target, got=f"the trace {trace}", todo=todo
            )
    folder = next(parent for parent in place.parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        got = "no right to write there" if folder.is_dir() else f"{folder}, which is a file"
        raise UsageError("the page cannot be written", where=target, got=got, todo=todo)


def _facts(trace: "Trace", analysis: "Analysis") -> list[tuple[str, str]]:
    facts = [("trace", str(trace.path)), ("tokens", f"{trace.rows:,}")]
    if not trace.complete:
        facts.append(("cut short", "the recording was not ended: its closed parts are all there is"))
    if sample := analysis.sample:
        facts.append(
            ("sample", f"{sample['segments']} of {sample['of']} segments for curves and consistency")
        )
    return facts


def _tell(
    reported: "Sequence[Reported]",
    traces: "Sequence[Trace]",
    analyses: "Sequence[Analysis]",
    target: Path | None,
    output: Output,
) -> None:
    """The documents for programs; the findings for people, under names where there are several."""
    from locum.report.findings import findings

    path = None if target is None else str(target)
    documents = [
        {
            "trace": str(trace.path),
            "path": path,
            "digest": trace.digest,
            "rows": trace.rows,
            "complete": trace.complete,
            "model": trace.meta.model,
            "sample": analysis.sample,
            "lacking": analysis.lacking,
            "tables": analysis.tables,
        }
        for trace, analysis in zip(traces, analyses, strict=True)
    ]
    sentences = [[f"* {text}" for text in findings(one.tables, one.meta)] for one in reported]
    if len(documents) == 1:
        output.result(documents[0])
        output.show(*sentences[0])
        return
    names = [one.name for one in reported]
    output.result({"path": path, "names": names, "traces": documents})
    for name, lines in zip(names, sentences, strict=True):
        output.show(f"{name}:", *lines, "")

"""`locum report`: a trace as one page to look at."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from locum.cli.flags import number
from locum.cli.output import DEFAULT, Output, OutputOptions

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
    trace: Path, /, *, options: ReportOptions = ReportOptions(), output_options: OutputOptions = DEFAULT
) -> None:
    """Say what a trace shows: what caches of each size would hit, how even the load is, what can be foreseen.

    Parameters
    ----------
    trace
        A trace: the folder, or a file that was exported from one.
    """
    with Output(output_options) as output:
        from locum.analyze import analyze
        from locum.report import write_report
        from locum.report.findings import findings
        from locum.trace import Trace

        found = Trace(trace)
        with output.counting("reading the trace", found.rows) as heard:
            analysis = analyze(
                found, options.metric or None, segments=options.segments, progress=lambda done, _: heard(done)
            )
        facts = [("trace", str(found.path)), ("tokens", f"{found.rows:,}")]
        if not found.complete:
            facts.append(("cut short", "the recording was not ended: its closed parts are all there is"))
        if analysis.sample:
            sample = analysis.sample
            facts.append(
                ("sample", f"{sample['segments']} of {sample['of']} segments for curves and consistency")
            )
        if options.output is not None:
            write_report(options.output, analysis.tables, found.meta, facts, analysis.lacking)
            output.note(f"wrote {options.output}")
        document = {
            "trace": str(found.path),
            "path": None if options.output is None else str(options.output),
            "digest": found.digest,
            "rows": found.rows,
            "complete": found.complete,
            "model": found.meta.model,
            "sample": analysis.sample,
            "lacking": analysis.lacking,
            "tables": analysis.tables,
        }
        output.result(document)
        output.show(*(f"* {sentence}" for sentence in findings(analysis.tables, found.meta)))

"""Traces as verbs take them: opened, told apart, and said to be cut short where they are."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from locum.cli.output import Output
from locum.errors import UsageError

if TYPE_CHECKING:
    from locum.trace import Trace


def open_traces(paths: Sequence[Path], output: Output) -> "list[Trace]":
    """All of them, before anything long is done with the first. Raises `TraceError` for what is none,
    `UsageError` for the same one twice.
    """
    from locum.trace import Trace

    found = [Trace(path) for path in paths]
    seen: dict[Path, Path] = {}
    for path in paths:
        if (before := seen.setdefault(path.resolve(), path)) is not path:
            got = f"{before} and {path}"
            raise UsageError("the same trace twice", got=got, todo="Name each trace once")
    for trace in found:
        if not trace.complete:
            output.warn(
                f"{trace.path} was cut short: its closed parts, {trace.rows:,} tokens, are all there is"
            )
    return found


def names_of(traces: "Sequence[Trace]") -> list[str]:
    """A name for each that tells it from the others: the model's; where two are alike, the folder's; where
    those are alike too, the path.
    """
    names = [trace.meta.model or trace.path.resolve().name for trace in traces]
    for longer in (lambda path: path.resolve().name, str):
        alike = {name for name, count in Counter(names).items() if count > 1}
        names = [
            longer(trace.path) if name in alike else name for name, trace in zip(names, traces, strict=True)
        ]
    return names

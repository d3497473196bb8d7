"""The routing trace: what the router did, token by token. Schema, reader, writer, importers. No torch."""

from locum.trace.columns import COLUMNS, Rows
from locum.trace.meta import TraceMeta
from locum.trace.reader import Trace
from locum.trace.steps import StepRow
from locum.trace.writer import TraceWriter

__all__ = ["COLUMNS", "Rows", "StepRow", "Trace", "TraceMeta", "TraceWriter"]

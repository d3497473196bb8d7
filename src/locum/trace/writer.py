"""Write a trace: rows and steps as they come, in parts that are safe once closed."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from locum.errors import UsageError
from locum.files import require_new
from locum.trace import columns, events, steps
from locum.trace.columns import Rows
from locum.trace.events import EventRow
from locum.trace.meta import TraceMeta
from locum.trace.parts import write_part
from locum.trace.steps import StepRow

PART_ROWS = 65_536
PART_EVENTS = 32_768
PART_SECONDS = 30.0
PART_BYTES = 16 << 20
"""A part is closed when one of these is reached; a killed recording loses what came after that."""


class TraceWriter:
    """A trace being written into `folder`, which must not exist. Use as a context manager, or `close()`.

    `meta.json` is there from the start, its counts from the end. `clock` gives seconds.
    """

    def __init__(self, folder: Path, meta: TraceMeta, *, clock: Callable[[], float] = time.monotonic) -> None:
        require_new(folder)
        self.folder, self.meta, self._clock = folder, meta, clock
        try:
            folder.mkdir(parents=True)
            meta.write(folder)
        except OSError as error:
            raise UsageError("the trace's folder cannot be made", where=folder, got=error.strerror) from error
        self.rows = self.steps = 0
        self._pending: list[Rows] = []
        self._pending_steps: list[StepRow] = []
        self._pending_events: list[EventRow] = []
        self._pending_rows = self._pending_bytes = 0
        self._parts = {"part": 0, "steps": 0, "events": 0}
        self._requests: set[int] = set()
        self._opened = clock()
        self._closed = False

    def add(self, rows: Rows) -> None:
        """Append rows. Raises `TraceError` when they do not fit the meta."""
        columns.check_shapes(rows, self.meta)
        if not len(rows):
            return
        self._pending.append(rows)
        self._pending_rows += len(rows)
        self._pending_bytes += sum(array.nbytes for _, array in rows.columns())
        self.rows += len(rows)
        self._requests.update(np.unique(rows.request).tolist())
        full = self._pending_rows >= PART_ROWS or self._pending_bytes >= PART_BYTES
        if full or self._clock() - self._opened >= PART_SECONDS:
            self.flush()

    def step(self, row: StepRow) -> None:
        """Append what a forward step took."""
        self._pending_steps.append(row)
        self.steps += 1
        if self._clock() - self._opened >= PART_SECONDS:
            self.flush()

    def event(self, row: EventRow) -> None:
        """Append an event of the experts' memory."""
        self._pending_events.append(row)
        if len(self._pending_events) >= PART_EVENTS:
            self._write_events()

    def _write_events(self) -> None:
        if self._pending_events:
            self._write("events", events.to_table(self._pending_events))
        self._pending_events = []

    def flush(self) -> None:
        """Close the open part."""
        whole = columns.join(self._pending) if self._pending else None
        for start in range(0, len(whole) if whole is not None else 0, PART_ROWS):
            assert whole is not None
            self._write("part", columns.to_table(columns.cut(whole, start, start + PART_ROWS), self.meta))
        if self._pending_steps:
            self._write("steps", steps.to_table(self._pending_steps))
        self._write_events()
        self._pending, self._pending_steps = [], []
        self._pending_rows = self._pending_bytes = 0
        self._opened = self._clock()

    def _write(self, kind: str, table: object) -> None:
        write_part(self.folder, kind, self._parts[kind], table)
        self._parts[kind] += 1

    def close(self) -> None:
        """Close the last part and fill in the counts. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        self.meta = self.meta.closed(self.rows, self.steps, len(self._requests))
        self.meta.write(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

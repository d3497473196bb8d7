"""Read a trace: a folder of parts, or one exported file. In constant memory, unless asked for everything.

Axes: t rows, L MoE layers, K chosen.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from locum.errors import TraceError, UsageError
from locum.files import require_new, settle
from locum.trace import events, steps
from locum.trace.columns import COLUMNS, DECODE, Rows, arrow_schema, from_batch
from locum.trace.events import EventRow
from locum.trace.meta import TraceMeta
from locum.trace.parts import WRITING, batches_of, find_parts, open_part
from locum.trace.snapshot import Snapshot
from locum.trace.validate import check_rows
from locum.units import format_bytes

BATCH_ROWS = 16_384
MOST_BYTES = 2 << 30
"""What `Trace.experts` gives at most."""
_KEY = b"locum.trace"
_ALWAYS = tuple(column.name for column in COLUMNS if not column.optional)


class Trace:
    """A trace to read. Raises `TraceError` for what is none, is damaged or holds no rows.

    `path`: the folder, or a file that `export` wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_file():
            self.meta, self._parts = _exported_meta(self.path), [self.path]
            self._steps, self._events = list[Path](), list[Path]()
        else:
            self.meta = TraceMeta.read(self.path)
            self._parts, self._steps, self._events = (
                find_parts(self.path, kind) for kind in ("part", "steps", "events")
            )
        schema = arrow_schema(self.meta)
        self.rows: int = sum(open_part(part, schema).metadata.num_rows for part in self._parts)
        if not self.rows:
            todo = "Record again: a part is closed after 30 seconds, or when the recording ends"
            raise TraceError("the trace holds no rows", where=self.path, todo=todo)
        if self.meta.rows is not None and self.meta.rows != self.rows:
            todo = 'Find the parts that are gone, or write "rows": null in meta.json to use what is there'
            raise TraceError(
                "rows are missing", where=self.path, allowed=self.meta.rows, got=self.rows, todo=todo
            )

    @property
    def complete(self) -> bool:
        """False for a recording that was cut short."""
        return self.meta.rows is not None

    def require(self, who: str, *names: str) -> None:
        """Raises `TraceError` naming the columns that `who` needs and this trace lacks."""
        if missing := self.lacks(*names):
            raise TraceError(
                f"{who} needs {', '.join(missing)}", where=self.path,
                got=f"a trace of {', '.join(self.provides)}", todo="Record one with them, or leave this out",
            )  # fmt: skip

    @property
    def provides(self) -> tuple[str, ...]:
        """The columns that say something."""
        counted = self.meta.routing == "counts"
        return (*(name for name in _ALWAYS if not (counted and name == "experts")), *self.meta.columns)

    def lacks(self, *names: str) -> list[str]:
        """Those of `names` that this trace does not provide."""
        return [name for name in names if name not in self.provides]

    def require_model(self, config_hash: str) -> None:
        """Raises `TraceError` when the trace is of another model, as far as it knows."""
        if self.meta.config_hash and self.meta.config_hash != config_hash:
            raise TraceError(
                "the trace is of another model", where=self.path,
                allowed=f"config {config_hash[:12]}",
                got=f"{self.meta.model}, config {self.meta.config_hash[:12]}",
            )  # fmt: skip

    def batches(self, columns: Sequence[str] = (), size: int = BATCH_ROWS) -> Iterator[Rows]:
        """Rows in order, at most `size` at a time, with these optional columns. Raises `TraceError`."""
        self.require("this", *columns)
        wanted = [*_ALWAYS, *(name for name in self.meta.columns if name in columns)]
        schema, first, last = arrow_schema(self.meta), 0, -1
        for path in self._parts:
            for batch in batches_of(open_part(path, schema), path, size, wanted):
                rows = from_batch(batch, self.meta)
                check_rows(rows, self.meta, path, first)
                if rows.step[0] < last:
                    raise TraceError(
                        "steps go backwards", where=f"{path}, row {first}", got=int(rows.step[0])
                    )
                first, last = first + len(rows), int(rows.step[-1])
                yield rows

    @property
    def experts(self) -> NDArray[np.int16]:
        """[t, L, K] in one array. Raises `TraceError` when that is over 2 GiB."""
        sizes = self.meta.sizes
        need = self.rows * sizes["L"] * sizes["K"] * 2
        if need > MOST_BYTES:
            raise TraceError(
                "too much for one array", where=self.path, allowed=format_bytes(MOST_BYTES),
                got=format_bytes(need), todo="Go through it with batches()",
            )  # fmt: skip
        return np.concatenate([rows.experts for rows in self.batches()])

    def steps(self) -> dict[str, NDArray[Any]]:
        """Per forward step, by the names of `StepRow`; empty arrays where the source has no clock."""
        names = steps.SCHEMA.names
        batches = [
            batch
            for path in self._steps
            for batch in batches_of(open_part(path, steps.SCHEMA), path, BATCH_ROWS, names)
        ]
        table = pa.Table.from_batches(batches, steps.SCHEMA)
        return {name: table.column(name).to_numpy() for name in table.schema.names}

    @property
    def has_events(self) -> bool:
        """Whether the recording kept the events of the experts' memory."""
        return bool(self._events)

    def events(self) -> Iterator[EventRow]:
        """What the experts' memory was told and did, in order, in constant memory. Raises `TraceError`."""
        for path in self._events:
            for batch in batches_of(open_part(path, events.SCHEMA), path, BATCH_ROWS, events.SCHEMA.names):
                yield from events.from_batch(batch)

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """The engine's setting and its cache when the recording began; None in a trace from elsewhere."""
        return Snapshot.read(self.path)

    @property
    def decode_tok_s(self) -> float | None:
        """Decoded tokens per second of the recording's own clock, which stands still between steps."""
        found = self.steps()
        decoding = found["phase"] == DECODE
        seconds = float(found["wall_s"][decoding].sum())
        return float(found["tokens"][decoding].sum()) / seconds if seconds else None

    @cached_property
    def digest(self) -> str:
        """xxh3-128 of all parts: the trace's identity in what is made of it."""
        digest = xxhash.xxh3_128()
        for path in self._parts:
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def export(self, target: Path) -> None:
        """All rows and the meta in one parquet file; the steps' clock stays behind."""
        require_new(target)
        temporary = target.with_name(f".{target.name}.part")
        schema = arrow_schema(self.meta)
        document = json.dumps(self.meta.to_json()).encode()
        try:
            with (
                open(temporary, "wb") as file,
                pq.ParquetWriter(file, schema.with_metadata({_KEY: document}), **WRITING) as writer,
            ):
                for path in self._parts:
                    for batch in batches_of(open_part(path, schema), path, BATCH_ROWS, schema.names):
                        writer.write_batch(batch)
            with open(temporary, "rb+") as written:
                settle(written)
            temporary.rename(target)
        except OSError as error:
            raise UsageError("the file cannot be written", where=target, got=error.strerror) from error
        finally:
            temporary.unlink(missing_ok=True)


def _exported_meta(path: Path) -> TraceMeta:
    got = "a file that is no parquet, or cut short"
    try:
        metadata = pq.read_schema(path).metadata or {}
        got = "a parquet file without a trace's meta"
        document = json.loads(metadata[_KEY])
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        todo = "Give a trace's folder, or a file made by its export"
        raise TraceError("not a trace", where=path, got=got, todo=todo) from error
    return TraceMeta.from_json(document, path)

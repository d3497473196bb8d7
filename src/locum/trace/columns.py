"""The columns of a trace: one table says their types, axes and fill, and everything else follows from it.

Axes: t rows (tokens of one forward pass after the other), L MoE layers, K chosen, E experts, D distances of
prediction, P predicted per distance, S best scores. Layers with fewer experts or choices are padded: ids with
-1, numbers with NaN.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from locum.errors import TraceError
from locum.trace.meta import TraceMeta


@dataclass(frozen=True, slots=True)
class Column:
    """A column: numpy's name of its type, and its axes beside the rows."""

    name: str
    dtype: str
    axes: str = ""
    optional: bool = True

    @property
    def fill(self) -> float:
        """What stands where there is nothing."""
        return -1 if self.dtype.startswith("int") else np.nan

    def shape(self, meta: TraceMeta) -> tuple[int, ...]:
        """The lengths of its axes in one row."""
        sizes = meta.sizes
        return tuple(sizes[axis] for axis in self.axes)


COLUMNS = (
    Column("request", "int32", optional=False),
    Column("position", "int32", optional=False),
    Column("step", "int64", optional=False),
    Column("phase", "uint8", optional=False),
    Column("experts", "int16", "LK", optional=False),
    Column("token", "int32"),
    Column("weights", "float16", "LK"),
    Column("native_experts", "int16", "LK"),
    Column("next_ids", "int16", "LDP"),
    Column("next_scores", "float16", "LDP"),
    Column("top_ids", "int16", "LS"),
    Column("top_scores", "float16", "LS"),
    Column("logits", "float16", "LE"),
    Column("margin", "float16", "L"),
    Column("entropy", "float16", "L"),
    Column("domain", "str"),
    Column("counts", "int32", "LE"),
)
BY_NAME = {column.name: column for column in COLUMNS}
OPTIONAL = tuple(column.name for column in COLUMNS if column.optional)
PREFILL, DECODE, TRAIN = 0, 1, 2
"""Values of `phase`."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a trace in memory, an array per column; None where a column is not there."""

    request: NDArray[np.int32]
    position: NDArray[np.int32]
    step: NDArray[np.int64]
    phase: NDArray[np.uint8]
    experts: NDArray[np.int16]
    """[t, L, K], -1 after the last expert of a row."""
    token: NDArray[np.int32] | None = None
    weights: NDArray[np.float16] | None = None
    native_experts: NDArray[np.int16] | None = None
    next_ids: NDArray[np.int16] | None = None
    """[t, L, D, P]: what the gate of layer l + d chose from what the gate of layer l saw."""
    next_scores: NDArray[np.float16] | None = None
    top_ids: NDArray[np.int16] | None = None
    top_scores: NDArray[np.float16] | None = None
    logits: NDArray[np.float16] | None = None
    margin: NDArray[np.float16] | None = None
    entropy: NDArray[np.float16] | None = None
    domain: NDArray[np.object_] | None = None
    """Strings, or None."""
    counts: NDArray[np.int32] | None = None
    """[t, L, E]: choices per expert, where a row is a forward pass of which nothing else is known."""

    def __len__(self) -> int:
        return len(self.request)

    def columns(self) -> Iterator[tuple[Column, NDArray[Any]]]:
        """(column, array) of what is there."""
        for field in fields(self):
            array = getattr(self, field.name)
            if array is not None:
                yield BY_NAME[field.name], array


def cut(rows: Rows, start: int, stop: int) -> Rows:
    """Rows `start` to `stop`."""
    return replace(rows, **{column.name: array[start:stop] for column, array in rows.columns()})


def join(parts: Sequence[Rows]) -> Rows:
    """Rows one after the other; all have the same columns."""
    if len(parts) == 1:
        return parts[0]
    names = [column.name for column, _ in parts[0].columns()]
    found: dict[str, Any] = {name: np.concatenate([getattr(rows, name) for rows in parts]) for name in names}
    return Rows(**found)


def arrow_schema(meta: TraceMeta) -> pa.Schema:
    """The schema of this trace's parts."""
    return pa.schema([
        pa.field(column.name, _arrow_type(column, meta))
        for column in COLUMNS if not column.optional or column.name in meta.columns
    ])  # fmt: skip


def _arrow_type(column: Column, meta: TraceMeta) -> pa.DataType:
    if column.dtype == "str":
        return pa.dictionary(pa.int32(), pa.string())
    plain = pa.from_numpy_dtype(np.dtype(column.dtype))
    return pa.list_(plain, int(np.prod(column.shape(meta)))) if column.axes else plain


def check_shapes(rows: Rows, meta: TraceMeta) -> None:
    """Raises `TraceError` where columns are missing, extra or of another shape than the meta says."""
    names = {column.name for column in COLUMNS if not column.optional}.union(meta.columns)
    given = {column.name: array.shape for column, array in rows.columns()}
    if set(given) != names:
        raise TraceError(
            "the rows have other columns than the trace",
            allowed=", ".join(sorted(names)), got=", ".join(sorted(given)),
        )  # fmt: skip
    for name, shape in given.items():
        wanted = (len(rows), *BY_NAME[name].shape(meta))
        if shape != wanted:
            raise TraceError("rows of another shape", where=name, allowed=wanted, got=shape)


def to_table(rows: Rows, meta: TraceMeta) -> pa.Table:
    """Rows of the right shapes as an Arrow table."""
    schema = arrow_schema(meta)
    given = {column.name: (column, array) for column, array in rows.columns()}
    arrays = []
    for field in schema:
        column, array = given[field.name]
        if column.dtype == "str":
            arrays.append(pa.array(array.tolist(), pa.string()).dictionary_encode())
            continue
        flat = pa.array(np.ascontiguousarray(array, column.dtype).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type) if column.axes else flat)
    return pa.Table.from_arrays(arrays, schema=schema)


def from_batch(batch: pa.RecordBatch, meta: TraceMeta) -> Rows:
    """Rows of an Arrow batch that has some of the trace's columns."""
    found: dict[str, Any] = {}
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        column = BY_NAME[name]
        if column.dtype == "str":
            names = np.array([*array.dictionary.to_pylist(), None], object)
            found[name] = names[array.indices.fill_null(-1).to_numpy()]
        elif column.axes:
            found[name] = (
                array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), *column.shape(meta))
            )
        else:
            found[name] = array.to_numpy(zero_copy_only=False)
    return Rows(**found)

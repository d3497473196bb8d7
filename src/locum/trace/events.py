"""`events-NNNNN.parquet`: what the experts' memory was told and what it did, line by line, where asked for.

Rows and steps of a trace tell this too, as long as nobody changes a budget or unloads a model meanwhile; the
events tell it always. Keys are `layer * stride + expert`, the stride being the most experts of a layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

KINDS = ("request", "step", "forecast", "acquire", "want", "set_budget", "set_speculation", "discard")


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event. What `numbers`, `keys` and `values` mean depends on the kind:

    request (number, 1 at its begin) · step (number, phase, tokens) · forecast (steps ahead, layer), keys,
    confidence · acquire (layer), keys, tokens per key · want (), keys that got a place, ticks when they are
    due · set_budget (group, bytes) · set_speculation (bytes) · discard (), keys.

    The rest is what it did, in keys.
    """

    kind: str
    numbers: Sequence[int]
    keys: Sequence[int] = ()
    values: Sequence[float] = ()
    hits: Sequence[int] = ()
    staged: Sequence[int] = ()
    misses: Sequence[int] = ()
    evicted: Sequence[int] = ()
    streamed: Sequence[int] = ()
    cancelled: Sequence[int] = ()

    @classmethod
    def of(cls, event: tuple[Any, ...]) -> "EventRow":
        """An event as the Ledger tells it, see `residency.decision.Event`."""
        kind, *rest = event
        if kind == "acquire":
            layer, keys, decision, counts = rest
            return cls(kind, (layer,), keys, counts or (), *decision)
        if kind in ("request", "step"):
            return cls(kind, [int(number) for number in rest])
        if kind == "forecast":
            ahead, layer, keys, confidence = rest
            return cls(kind, (ahead, layer), keys, confidence)
        if kind == "want":
            return cls(kind, (), *rest)
        *numbers, decision = rest
        if kind == "discard":
            return cls(kind, (), numbers[0], (), *decision)
        return cls(kind, numbers, (), (), *decision)

    @property
    def outcome(self) -> tuple[Sequence[int], ...]:
        """What it did: hits, staged, misses, evicted, streamed, cancelled."""
        return self.hits, self.staged, self.misses, self.evicted, self.streamed, self.cancelled


def _type(name: str) -> pa.DataType:
    if name == "kind":
        return pa.dictionary(pa.int32(), pa.string())
    return pa.list_({"numbers": pa.int64(), "values": pa.float64()}.get(name, pa.int32()))


SCHEMA = pa.schema([pa.field(f.name, _type(f.name)) for f in fields(EventRow)])


def to_table(events: Sequence[EventRow]) -> pa.Table:
    """Events as an Arrow table."""
    arrays = []
    for field in SCHEMA:
        values: list[Any] = [getattr(event, field.name) for event in events]
        plain = field.type.value_type if field.name == "kind" else field.type
        array = pa.array(values, plain)
        arrays.append(array.dictionary_encode() if field.name == "kind" else array)
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def from_batch(batch: pa.RecordBatch) -> Iterator[EventRow]:
    """The events of an Arrow batch."""
    for row in batch.to_pylist():
        yield EventRow(**row)

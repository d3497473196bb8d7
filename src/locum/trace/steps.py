"""`steps-NNNNN.parquet`: what each forward step took."""

from dataclasses import astuple, dataclass, fields

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class StepRow:
    """One forward step. Times in seconds: `wall_s` is `compute_s` and `stall_s` and `predict_s`, which went
    into asking the next layers' routers at all recorded distances. `late` experts were owned but had not
    landed.
    """

    step: int
    phase: int
    tokens: int
    wall_s: float
    compute_s: float
    stall_s: float
    predict_s: float
    bytes_read: int
    hits: int
    staged: int
    misses: int
    late: int
    evicted: int = 0


SCHEMA = pa.schema(
    [
        pa.field(f.name, pa.float64() if f.type is float else pa.uint8() if f.name == "phase" else pa.int64())
        for f in fields(StepRow)
    ]
)


def to_table(steps: list[StepRow]) -> pa.Table:
    """Steps as an Arrow table."""
    columns = list(zip(*map(astuple, steps), strict=True)) or [()] * len(SCHEMA)
    return pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )

"""What is written is read again, whole, from parts that are safe once closed."""

import json
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_trace import meta_of, random_rows, rows_of, write_trace
from locum.errors import LocumError, TraceError, UsageError
from locum.trace import Rows, StepRow, Trace, TraceMeta, TraceWriter, parts, writer
from locum.trace.columns import OPTIONAL as COLUMNS
from locum.trace.columns import cut, join

OPTIONAL = tuple(name for name in COLUMNS if name != "counts")


def same(left: Rows, right: Rows) -> bool:
    pairs = [(getattr(left, f.name), getattr(right, f.name)) for f in fields(Rows)]
    return all(
        (a is None and b is None)
        or (
            a.tolist() == b.tolist()
            if a.dtype == object
            else np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )
        for a, b in pairs
    )


def joined(trace: Trace, columns: Any = OPTIONAL) -> Rows:
    return join(list(trace.batches([name for name in columns if name in trace.meta.columns])))


@settings(max_examples=30, deadline=None)
@given(
    columns=st.sets(st.sampled_from(OPTIONAL)),
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    seed=st.integers(0, 9),
    part=st.integers(1, 50),
    layers=st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    columns: set[str],
    counts: list[int],
    seed: int,
    part: int,
    layers: list[int],
) -> None:
    """Any columns, uneven layers, skipped choices, any size of part."""
    meta = replace(
        meta_of(len(layers)),
        experts=tuple(layers),
        top_k=tuple(-(-e // 2) for e in layers),
        columns=tuple(name for name in OPTIONAL if name in columns),
        distances=2,
        predicted=3,
        scored=4,
    )
    rows = random_rows(meta, sum(counts), seed, skips=0.2)
    folder = tmp_path_factory.mktemp("trace") / "t"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PART_ROWS", part)
        start, pieces = 0, []
        for count in counts:
            pieces.append(cut(rows, start, start + count))
            start += count
        trace = write_trace(folder, meta, *pieces)
    assert len(list(folder.glob("part-*"))) >= sum(counts) // max(part, *counts)
    assert same(joined(trace), rows)
    assert same(joined(trace, ()), replace(rows, **dict.fromkeys(OPTIONAL)))
    assert np.array_equal(trace.experts, rows.experts)
    assert (trace.meta.rows, trace.meta.requests, trace.complete) == (len(rows), 1, True)
    single = folder.with_suffix(".parquet")
    trace.export(single)
    assert same(joined(Trace(single)), rows)
    assert Trace(single).meta == trace.meta


def test_steps(tmp_path: Path) -> None:
    steps = [StepRow(n, n % 2, 4, 0.5 * n, 0.25, 0.125, 0.0625, 4096, 1, 2, 3, 4, 5) for n in range(7)]
    with TraceWriter(tmp_path / "t", meta_of()) as out:
        for row in steps:
            out.step(row)
        out.add(random_rows(meta_of(), 3))
    found = Trace(tmp_path / "t").steps()
    for field in fields(StepRow):
        assert found[field.name].tolist() == [getattr(row, field.name) for row in steps]


def test_a_trace_without_a_clock_has_no_steps(tmp_path: Path) -> None:
    found = write_trace(tmp_path / "t", meta_of(), random_rows(meta_of(), 3)).steps()
    assert set(found) == {f.name for f in fields(StepRow)}
    assert not any(map(len, found.values()))


def test_parts_close_by_time_by_rows_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, meta = [0.0], meta_of()
    row = random_rows(meta, 1)
    out = TraceWriter(tmp_path / "t", meta, clock=lambda: now[0])
    out.add(row)
    now[0] = writer.PART_SECONDS - 1
    out.add(row)
    assert not list((tmp_path / "t").glob("part-*"))
    now[0] = writer.PART_SECONDS
    out.add(row)
    assert Trace(tmp_path / "t").rows == 3
    monkeypatch.setattr(writer, "PART_BYTES", 3 * sum(a.nbytes for _, a in row.columns()))
    for _ in range(4):
        out.add(row)
    assert Trace(tmp_path / "t").rows == 6
    monkeypatch.setattr(writer, "PART_ROWS", 2)
    out.add(row)
    assert Trace(tmp_path / "t").rows == 8
    assert not Trace(tmp_path / "t").complete
    out.close()
    assert Trace(tmp_path / "t").meta.rows == 8


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from helpers_trace import meta_of, random_rows
from locum.trace import TraceWriter, writer
writer.PART_ROWS = 10
out = TraceWriter(Path(sys.argv[1]), meta_of())
for n in range(5):
    out.add(random_rows(meta_of(), 7, seed=n, start=7 * n))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_recording_keeps_its_closed_parts(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "t"), str(Path(__file__).parents[1])]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    trace = Trace(tmp_path / "t")
    expected = np.concatenate([random_rows(meta_of(), 7, seed=n, start=7 * n).experts for n in range(4)])
    assert np.array_equal(trace.experts, expected)
    assert not trace.complete


def test_a_full_disk_keeps_what_was_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = TraceWriter(tmp_path / "t", meta_of())
    out.add(random_rows(meta_of(), 5))
    out.flush()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts.pq, "write_table", full)
    out.add(random_rows(meta_of(), 5))
    with pytest.raises(LocumError, match="disk is full"):
        out.flush()
    assert Trace(tmp_path / "t").rows == 5
    assert not [path for path in (tmp_path / "t").iterdir() if path.name.endswith(".part")]


def faulty(tmp_path: Path, ids: Any, meta: TraceMeta | None = None) -> Trace:
    meta = meta or meta_of(layers=1)
    return write_trace(tmp_path / "t", meta, rows_of(ids, meta))


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([[[0, 1]], [[6, 1]]], r"out of range.*row 1, MoE layer 0, place 0"),
        ([[[0, -2]]], "out of range"),
        ([[[0, 1]], [[-1, 1]]], r"-1 stands before an expert.*row 1.*place 1"),
        ([[[3, 3]]], "twice"),
    ],
)
def test_wrong_ids_are_named(tmp_path: Path, ids: Any, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        list(faulty(tmp_path, ids).batches())


def test_a_layer_that_chooses_fewer(tmp_path: Path) -> None:
    meta = replace(meta_of(layers=2), top_k=(2, 1))
    assert list(faulty(tmp_path, [[[0, 1], [2, -1]]], meta).batches())
    (tmp_path / "t").rename(tmp_path / "before")
    with pytest.raises(TraceError, match=r"more experts than the layer chooses.*MoE layer 1, place 1"):
        list(faulty(tmp_path, [[[0, 1], [2, 1]]], meta).batches())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"top_k": (7, 7)}, "top_k 7, experts 6"),
        ({"experts": (6,)}, "2 numbers, one per MoE layer"),
        ({"experts": (0, 6)}, "from 1 on"),
        ({"experts": (40_000, 6)}, "32767"),
        ({"moe_layers": (3, 2)}, "ascending"),
        ({"moe_layers": (), "experts": (), "top_k": ()}, "at least one"),
        ({"columns": ("colour",)}, "colour"),
        ({"routing": "guessed"}, "actual or derived"),
        ({"expert_bytes": (1,)}, "one per MoE layer"),
    ],
)
def test_a_meta_that_contradicts_itself(change: dict[str, Any], said: str) -> None:
    with pytest.raises(TraceError, match=said):
        replace(meta_of(), **change)


def edited(folder: Path, **change: Any) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "locum.trace/2"}, "another version of locum"),
        ({"schema": "locum.plan/1"}, "not a trace"),
        ({"experts": "many"}, "wrong kind"),
        ({"experts": 1}, "top_k 2, experts 1"),
        ({"top_k": 3}, "columns are not those"),
        ({"columns": ["weights"]}, r"expected weights .*got none"),
        ({"rows": 9}, "rows are missing"),
    ],
)
def test_a_meta_that_lies(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_trace(tmp_path / "t", meta_of(), random_rows(meta_of(), 5))
    edited(tmp_path / "t", **change)
    with pytest.raises(TraceError, match=said):
        Trace(tmp_path / "t")


def test_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no trace"):
        Trace(tmp_path / "nothing")
    with pytest.raises(TraceError, match="no trace"):
        Trace(tmp_path)
    (tmp_path / "file").write_text("hello")
    with pytest.raises(TraceError, match="not a trace"):
        Trace(tmp_path / "file")
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(TraceError, match="cannot be read"):
        Trace(tmp_path)
    (tmp_path / "meta.json").write_text("[]")
    with pytest.raises(TraceError, match="JSON object"):
        Trace(tmp_path)


def test_an_empty_trace(tmp_path: Path) -> None:
    TraceWriter(tmp_path / "t", meta_of()).close()
    with pytest.raises(TraceError, match="no rows"):
        Trace(tmp_path / "t")


@pytest.mark.parametrize("cut", [0, 3, 0.5, 0.99])
def test_a_part_cut_short(tmp_path: Path, cut: float) -> None:
    write_trace(tmp_path / "t", meta_of(), random_rows(meta_of(), 500))
    part = tmp_path / "t" / "part-00000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: int(cut if cut >= 1 else cut * len(whole))])
    with pytest.raises(TraceError, match="part-00000.parquet.*" if cut else "damaged"):
        Trace(tmp_path / "t")


def test_a_part_missing_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 2)
    write_trace(tmp_path / "t", meta_of(), *[random_rows(meta_of(), 2)] * 3)
    (tmp_path / "t" / "part-00001.parquet").unlink()
    with pytest.raises(TraceError, match="part-00001"):
        Trace(tmp_path / "t")


def test_damage_is_found_or_did_not_matter(tmp_path: Path) -> None:
    rows = random_rows(meta_of(), 300)
    write_trace(tmp_path / "t", meta_of(), rows)
    part = tmp_path / "t" / "part-00000.parquet"
    whole = part.read_bytes()
    refused = 0
    for place in range(0, len(whole), 11):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = joined(Trace(tmp_path / "t"))
        except TraceError:
            refused += 1
        else:
            assert same(found, rows), place
    assert refused > 0.9 * len(range(0, len(whole), 11))


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    out = TraceWriter(tmp_path / "t", meta_of(columns=("token",)))
    with pytest.raises(TraceError, match="other columns"):
        out.add(random_rows(meta_of(), 2))
    with pytest.raises(TraceError, match="another shape"):
        out.add(random_rows(meta_of(layers=3, columns=("token",)), 2))


def test_steps_that_go_backwards(tmp_path: Path) -> None:
    rows = random_rows(meta_of(), 4)
    with pytest.raises(TraceError, match="backwards"):
        list(write_trace(tmp_path / "t", meta_of(), rows, rows).batches(size=3))
    with pytest.raises(TraceError, match="backwards"):
        list(write_trace(tmp_path / "u", meta_of(), rows, rows).batches(size=4))


def test_what_is_lacking_is_named(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t", meta_of(), random_rows(meta_of(), 4))
    with pytest.raises(TraceError, match="prediction recall needs next_ids"):
        trace.require("prediction recall", "next_ids")
    with pytest.raises(TraceError, match="weights"):
        list(trace.batches(["weights"]))


def test_another_model(tmp_path: Path) -> None:
    meta = meta_of(config_hash="a" * 64)
    trace = write_trace(tmp_path / "t", meta, random_rows(meta, 4))
    trace.require_model("a" * 64)
    with pytest.raises(TraceError, match="another model"):
        trace.require_model("b" * 64)


def test_too_much_for_one_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = write_trace(tmp_path / "t", meta_of(), random_rows(meta_of(), 4))
    monkeypatch.setattr("locum.trace.reader.MOST_BYTES", 31)
    with pytest.raises(TraceError, match=r"batches\(\)"):
        _ = trace.experts


def test_a_target_that_exists(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(UsageError, match="exists"):
        TraceWriter(tmp_path / "t", meta_of())
    trace = write_trace(tmp_path / "u", meta_of(), random_rows(meta_of(), 4))
    with pytest.raises(UsageError, match="exists"):
        trace.export(tmp_path / "t")


def test_the_digest_is_of_the_rows(tmp_path: Path) -> None:
    first = write_trace(tmp_path / "a", meta_of(), random_rows(meta_of(), 4))
    again = write_trace(tmp_path / "b", meta_of(), random_rows(meta_of(), 4))
    other = write_trace(tmp_path / "c", meta_of(), random_rows(meta_of(), 4, seed=1))
    assert first.digest == again.digest != other.digest

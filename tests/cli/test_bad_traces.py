"""Bad traces as users meet them: every verb that takes one says what is wrong, in a process of its own."""

import csv
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers_cli import environment, locum
from helpers_trace import meta_of, random_rows, write_trace
from locum.errors import BudgetError, LocumError, UsageError
from locum.trace import StepRow, Trace, TraceWriter
from locum.trace.columns import cut

META = meta_of(
    columns=("next_ids", "next_scores"), distances=1, predicted=2, expert_bytes=(4096,) * 2,
    slot_bytes=(4096,) * 2,
)  # fmt: skip
ROWS = random_rows(META, 150)
SIMULATE = ("--disk", "1GiB", "--expert-memory", "100%", "--eviction", "belady", "--prefetch", "next-gate")


def good(folder: Path) -> Path:
    with TraceWriter(folder, META) as out:
        out.add(ROWS)
        out.step(StepRow(0, 1, 1, 0.1, 0.1, 0.0, 0.0, 0, 0, 0, 0, 0))
    return folder


def edited(**change: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = good(folder) / "meta.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return make


def rows_with(name: str, place: tuple[int, ...], value: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        array = getattr(ROWS, name).copy()
        array[place] = value
        write_trace(folder, META, replace(ROWS, **{name: array}))

    return make


def truncated(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = good(folder) / name
        path.write_bytes(path.read_bytes()[:-40])

    return make


def flipped(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = good(folder) / name
        whole = path.read_bytes()
        path.write_bytes(whole[:60] + bytes([whole[60] ^ 0xFF]) + whole[61:])

    return make


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (good(folder) / name).unlink()


def foreign_parquet(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def cut_export(path: Path) -> None:
    good(path.with_name("whole"))
    Trace(path.with_name("whole")).export(path)
    path.write_bytes(path.read_bytes()[:2000])


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a part cut short": (truncated("part-00000.parquet"), r"damaged or cut short in bad/part-00000.*null"),
    "a part damaged inside": (flipped("part-00000.parquet"), r"damaged or cut short in bad/part-00000"),
    "parts gone": (without("part-00000.parquet"), "holds no rows in bad"),
    "rows gone": (edited(rows=900), "rows are missing in bad; expected 900; got 150. Find"),
    "no meta": (without("meta.json"), "no trace in bad; expected a folder with meta.json"),
    "meta of another version": (edited(schema="locum.trace/2"), "expected locum.trace/1; got locum.trace/2"),
    "meta of another kind": (edited(distances="1"), "in bad/meta.json, distances; expected a whole number"),
    "meta against its columns": (edited(distances=0), "distances; expected at least 1, because .* next_ids"),
    "more chosen than there are": (edited(top_k=9), r"expected top_k <= experts .*got top_k 9, experts 6"),
    "an id out of range": (
        rows_with("experts", (70, 1, 0), 6),
        r"out of range in bad/part-00000.parquet, experts, row 70, MoE layer 1, place 0; expected 2 diff",
    ),
    "-1 before an expert": (rows_with("experts", (9, 0, 0), -1), "-1 stands before an expert in bad.*row 9"),
    "a foreseen id out of range": (rows_with("next_ids", (8, 0, 0, 1), 77), "next_ids, row 8.*got 77"),
    "no rows": (lambda folder: TraceWriter(folder, META).close(), "the trace holds no rows in bad"),
    "a folder": (Path.mkdir, "no trace in bad; expected a folder with meta.json"),
    "a file": (lambda path: path.write_text("hello"), "not a trace in bad; got a file that is no parquet"),
    "a parquet file": (foreign_parquet, "not a trace in bad; got a parquet file without a trace's meta"),
    "an export cut short": (cut_export, "not a trace in bad; got .*cut short"),
    "nothing": (lambda _: None, "no trace in bad"),
}  # fmt: skip
READ_LATE = {
    "a part damaged inside",
    "an id out of range",
    "-1 before an expert",
    "a foreseen id out of range",
}
"""What only reading the rows can find."""


def said(result: "subprocess.CompletedProcess[str]", status: int) -> str:
    """The last paragraph on stderr, of a process that ended as it should."""
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert "should not have happened" not in result.stderr
    return result.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("name", BAD)
def test_report_beside_a_good_one(tmp_path: Path, name: str) -> None:
    make, pattern = BAD[name]
    good(tmp_path / "good")
    make(tmp_path / "bad")
    result = locum("report", "good", "bad", "-o", "r.html", cwd=tmp_path)
    assert re.search(pattern, said(result, 1))
    assert ("reading" in result.stderr) == (name in READ_LATE), "what can be known before is"
    assert not [path for path in tmp_path.iterdir() if ".html" in path.name]


@pytest.mark.parametrize(
    "name", ["a part cut short", "meta of another version", "no rows", "a file", *sorted(READ_LATE)]
)
def test_simulate(tmp_path: Path, name: str) -> None:
    make, pattern = BAD[name]
    make(tmp_path / "bad")
    assert re.search(pattern, said(locum("simulate", "bad", *SIMULATE, cwd=tmp_path), 1))


@pytest.mark.parametrize("make", [truncated("steps-00000.parquet"), flipped("steps-00000.parquet")])
def test_damaged_times(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """They matter to the simulator alone; without them it is computing that takes no time."""
    make(tmp_path / "bad")
    error = said(locum("simulate", "bad", *SIMULATE, cwd=tmp_path), 1)
    assert re.search("damaged or cut short in bad/steps-00000.*remove this part and those after it.$", error)
    (tmp_path / "bad" / "steps-00000.parquet").unlink()
    assert locum("simulate", "bad", *SIMULATE, "--workers", "1", cwd=tmp_path).returncode == 0


def test_what_a_damaged_part_advises_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.trace.writer.PART_ROWS", 50)
    write_trace(tmp_path / "t", META, *(cut(ROWS, start, start + 50) for start in (0, 50, 100)))
    for number in (1, 2):
        (tmp_path / "t" / f"part-0000{number}.parquet").unlink()
    path = tmp_path / "t" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": None}))
    result = locum("report", "t", "--json", cwd=tmp_path)
    assert "t was cut short: its closed parts, 50 tokens" in result.stderr
    found = json.loads(result.stdout)
    assert (found["rows"], found["complete"]) == (50, False)


KILLED = """
import sys
from locum.trace import writer
writer.PART_SECONDS = 0.2
from locum.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_recording(tmp_path: Path) -> None:
    """Killed while it writes: the closed parts are a trace that says it was cut short."""
    words = ["trace", "-o", "t", "--max-tokens", "400", "--quiet"]
    command = [sys.executable, "-c", KILLED, *words]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 90
        while len(list((tmp_path / "t").glob("part-*"))) < 2:
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    parts = sorted((tmp_path / "t").glob("part-*"))
    assert Trace(tmp_path / "t").rows == sum(pq.ParquetFile(part).metadata.num_rows for part in parts)
    result = locum("report", "t", "-o", "r.html", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "t was cut short: its closed parts" in result.stderr
    assert "the recording was not ended" in (tmp_path / "r.html").read_text(encoding="utf-8")
    result = locum("simulate", "t", *SIMULATE[:4], "--eviction", "belady", "--workers", "1", cwd=tmp_path)
    assert "t was cut short" in said(result, 0) + result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["trace", "--limit", "1"],
        ["run", "locum-tiny", "The sea"],
        ["trace", "import", "x.csv"],
        ["trace", "synth", "--tokens", "5"],
    ],
)
def test_a_trace_is_never_written_over(tmp_path: Path, words: list[str]) -> None:
    """Be it of another model: it stays byte for byte. Nor is anything written below a file."""
    good(tmp_path / "t")
    (tmp_path / "x.csv").write_text("request,position,layer,expert\n0,0,0,1\n")
    before = {path: path.read_bytes() for path in (tmp_path / "t").iterdir()}
    flag = "--trace" if words[0] == "run" else "-o"
    assert "the target exists in t. Remove it" in said(locum(*words, flag, "t", cwd=tmp_path), 2)
    assert before == {path: path.read_bytes() for path in (tmp_path / "t").iterdir()}
    assert "made in x.csv/t; got" in said(locum(*words, flag, "x.csv/t", cwd=tmp_path), 2)


@pytest.mark.parametrize(
    ("lines", "more", "pattern"),
    [
        ([(0, 0, 1, 2), (0, 1, 1, 9)], ["--experts", "4"], r"out of range in x.csv, line 3; expected 0 to 3"),
        ([(0, 0, 1, 2), (0, 1, 1, 1), (0, 1, 1, 1)], [], "twice in one choice in x.csv, line 3"),
        ([(1 << 40, 0, 1, 2)], [], f"x.csv, line 2, request; expected 0 to .*got {1 << 40}"),
        ([(0, 0, -1, 2)], [], "x.csv, line 2, layer; expected 0 to"),
        ([(0, 0, 1, 2)], ["--moe-layers", "5-6"], r"not those of the source in x.csv; expected \[1\]; got"),
        ([(0, 0, 1, 2), (0, 0, 1, 0)], ["--experts", "2", "--top-k", "1"], "expected 1 experts per token"),
        ([], [], "no tokens in x.csv"),
    ],
)
def test_an_import_leaves_no_half(
    tmp_path: Path, lines: list[tuple[int, ...]], more: list[str], pattern: str
) -> None:
    with open(tmp_path / "x.csv", "w", newline="") as file:
        csv.writer(file).writerows([("request", "position", "layer", "expert"), *lines])
    assert re.search(pattern, said(locum("trace", "import", "x.csv", "-o", "t", *more, cwd=tmp_path), 1))
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_a_trace_is_no_source(tmp_path: Path) -> None:
    good(tmp_path / "good")
    error = said(locum("trace", "import", "good", "-o", "t", cwd=tmp_path), 2)
    assert "is not known in good; expected csv, routed-experts, sglang-recorder; got a folder" in error
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["t", "./t"], "the same trace twice"),
        (["t", "-o", "t"], "the page is to be a file in t; got a folder"),
        (["t", "-o", "t/meta.json"], "would lie in a trace in t/meta.json"),
        (["t", "-o", "x/r.html"], "cannot be written in x/r.html; got .*x, which is a file"),
        (["t", "u", "--metric", "predictions"], "predictions needs next_ids in u"),
        ([], "requires an argument"),
    ],
)
def test_report_asked_wrongly(tmp_path: Path, words: list[str], pattern: str) -> None:
    good(tmp_path / "t")
    write_trace(tmp_path / "u", meta_of(), random_rows(meta_of(), 80))
    (tmp_path / "x").write_text("")
    result = locum("report", *words, cwd=tmp_path)
    assert re.search(pattern, said(result, 1 if "--metric" in words else 2))
    assert "reading" not in result.stderr
    assert Trace(tmp_path / "t").rows == 150


@pytest.mark.parametrize(
    ("words", "status", "pattern"),
    [
        (["--disk", "0"], 2, "more than nothing in --disk"),
        (["--expert-memory", "50%,x"], 2, "not a size in --expert-memory"),
        (["--prefetch", ","], 2, "no policy is named in --prefetch; expected none"),
        (["--disk", "1GiB", "--expert-memory", "1,2"], 1, "too small for one expert"),
    ],
)
def test_simulate_asked_wrongly(tmp_path: Path, words: list[str], status: int, pattern: str) -> None:
    """The last one is found in another process."""
    good(tmp_path / "t")
    assert re.search(pattern, said(locum("simulate", "t", *words, cwd=tmp_path), status))


@pytest.mark.parametrize(
    "error",
    [
        BudgetError("too small", minimum=5, where="here", todo="Give more"),
        UsageError("wrong", where="--x", allowed="a", got="b"),
        LocumError("so."),
    ],
)
def test_errors_cross_processes(error: LocumError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_traces_of_one_name(tmp_path: Path) -> None:
    """Named by their folders, then by their paths; the document of each is that of a report of it alone."""
    for name in ("a", "b", "c/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        good(tmp_path / name)
    write_trace(tmp_path / "other", replace(meta_of(), model="mine"), random_rows(meta_of(), 80))
    words = ("report", "a", "b", "c/b", "other")
    found = json.loads(locum(*words, "--metric", "load", "--json", cwd=tmp_path).stdout)
    assert found["names"] == ["a", "b", "c/b", "mine"]
    alone = json.loads(locum("report", "b", "--metric", "load", "--json", cwd=tmp_path).stdout)
    assert found["traces"][1] == alone
    shown = locum(*words, "-o", "r.html", cwd=tmp_path)
    assert [line for line in shown.stdout.splitlines() if line.endswith(":")] == ["a:", "b:", "c/b:", "mine:"]
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert all(f'id="chart-{key}"' in page for key in ("all-caching", "all-recall", "1-load", "4-caching"))

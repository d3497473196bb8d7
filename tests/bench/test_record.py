"""Records and their tables."""

import json
import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.bench.record import Result, Target, load, markdown, save, spread
from locum.errors import LocumError

ROW = {
    "engine": "locum",
    "what": "decode | fast",
    "command": "python -m locum run MODEL",
    "memory_limit": 4 << 30,
    "decode_tok_s": {"median": 1.5, "min": 1.25, "max": 2.0},
    "hit_rate": {"median": 0.5, "min": 0.5, "max": 0.5},
    "model": {"backbone_bytes": 950_000_000},
}
LOST = {
    "engine": "accelerate",
    "what": "ladder",
    "memory_limit": 1 << 30,
    "cannot": "cannot run, because OOM-killed",
}


def result(met: bool = True) -> Result:
    return Result([ROW, LOST], [Target("speed", ">= 1", "1.5", met)])


@given(st.lists(st.floats(0, 1e9) | st.none(), max_size=9))
def test_spread(values: list[float | None]) -> None:
    known = sorted(value for value in values if value is not None)
    found = spread(values)
    if not known:
        assert found is None
        return
    assert found is not None
    assert (found["min"], found["max"]) == (known[0], known[-1])
    assert math.isclose(found["median"], statistics.median(known))


def test_saved_and_loaded(tmp_path: Path) -> None:
    save(tmp_path / "new", "piece", result(), "abc")
    assert load(tmp_path / "new", "piece") == (result(), "abc")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["piece.json", "piece.md"]
    assert json.loads((tmp_path / "new/piece.json").read_text())["schema"] == "locum.bench/1"
    assert load(tmp_path, "piece") is None


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema": "locum.bench/2"}', '{"schema": "locum.bench/1", "rows": []}', "\xff"]
)
def test_a_damaged_record_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "piece.json").write_text(content, encoding="latin-1")
    with pytest.raises(LocumError, match=r"piece\.json"):
        load(tmp_path, "piece")


def test_a_number_json_cannot_hold_leaves_the_old_record(tmp_path: Path) -> None:
    save(tmp_path, "piece", result(), "abc")
    with pytest.raises(ValueError, match="nan"):
        save(tmp_path, "piece", Result([{**ROW, "hit_rate": math.nan}], []), "def")
    assert load(tmp_path, "piece") == (result(), "abc")
    assert not list(tmp_path.glob("*.part"))


def test_the_table_says_it_all() -> None:
    text = markdown("piece", result(met=False))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    header, _, first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    cells = dict(zip(header, first, strict=True))
    assert cells["engine"] == "locum"
    assert cells["what"] == "decode / fast"
    assert cells["limit GiB"] == "4.00"
    assert cells["tokens/s"] == "1.500 (1.250 to 2.000)"
    assert cells["hit rate"] == "0.500"
    assert cells["backbone GB"] == "0.95"
    assert "read GB" not in cells
    assert dict(zip(header, second, strict=True))["remarks"] == "cannot run, because OOM-killed"
    assert "MISSED: speed: 1.5 (wanted >= 1)" in text
    assert "python -m locum run MODEL" in text


def test_a_peer_that_cannot_run_has_no_figures() -> None:
    text = markdown("piece", Result([{**LOST, "decode_tok_s": {"median": 7, "min": 7, "max": 7}}, ROW], []))
    assert "7.0" not in text

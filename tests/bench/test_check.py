"""Pieces: what is skipped, what is measured again, what the exit status says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from locum.bench import check, workshop
from locum.bench.check import main
from locum.bench.record import Result, Target
from locum.bench.workshop import Workshop
from locum.errors import LocumError, UsageError


class Fake:
    """A piece that counts its runs, and takes its outcome from a list."""

    def __init__(self, *met: bool) -> None:
        self.met, self.runs, self.folders = list(met), 0, []

    def __call__(self, shop: Workshop) -> Result:
        self.runs += 1
        self.folders.append(shop.folder)
        return Result([], [Target("t", "yes", "no", self.met.pop(0))])


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    fakes = {"one": Fake(True, True), "two": Fake(False, True)}
    monkeypatch.setattr(check, "PIECES", fakes)
    return fakes


def test_list_prints_names_only(pieces: dict[str, Fake], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out == "one\ntwo\n"
    assert pieces["one"].runs == 0


def test_what_met_its_targets_is_not_run_again(pieces: dict[str, Fake], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)]
    assert main(out) == 1
    assert main(out) == 0  # `two` again, and this time it meets its target
    assert main(out) == 0
    assert (pieces["one"].runs, pieces["two"].runs) == (1, 2)
    assert main(["one", "--again", *out]) == 0
    assert (pieces["one"].runs, pieces["two"].runs) == (2, 2)


def test_other_sources_are_measured_anew(
    pieces: dict[str, Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["one", "--out", str(tmp_path)]) == 0
    monkeypatch.setattr(check, "sources_hash", lambda: "other")
    assert main(["one", "--out", str(tmp_path)]) == 0
    assert pieces["one"].runs == 2
    assert json.loads((tmp_path / "one.json").read_text())["sources"] == "other"


def test_a_foreign_record_is_not_overwritten(pieces: dict[str, Fake], tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("mine")
    with pytest.raises(LocumError, match=r"one\.json"):
        main(["one", "--out", str(tmp_path)])
    assert (tmp_path / "one.json").read_text() == "mine"


def test_the_temporary_folder_goes_even_when_a_piece_fails(
    pieces: dict[str, Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(shop: Workshop) -> Result:
        (shop.folder / "big").write_bytes(b"x")
        raise RuntimeError("broken")

    pieces["one"] = broken  # type: ignore[assignment]
    monkeypatch.setattr(workshop.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with pytest.raises(RuntimeError):
        main(["one", "--out", str(tmp_path / "out")])
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_models_are_made_once_kept_and_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = tmp_path / "keep"
    with Workshop(keep) as shop:
        first = shop.model("tiny-olmoe", "small", num_experts=4)
        shop.discard(first)
    stamp = (first.path / "model.safetensors").stat().st_mtime_ns
    with Workshop(keep) as shop:
        assert shop.model("tiny-olmoe", "small", num_experts=4) == first
        assert (first.path / "model.safetensors").stat().st_mtime_ns == stamp
        with pytest.raises(UsageError, match="exists"):
            shop.model("tiny-olmoe", "small", num_experts=2)
    facts = first.facts()
    assert facts["expert_bytes"] == 3 * 4 * 3 * 64 * 32 * 2
    weights = (first.path / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(weights[:8], "little")
    assert facts["expert_bytes"] + facts["backbone_bytes"] == len(weights) - header


def test_temporary_models_can_be_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop.tempfile, "tempdir", str(tmp_path))
    with Workshop() as shop:
        model = shop.model("tiny-olmoe")
        shop.discard(model)
        assert not model.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_signal_cleans_up_too(tmp_path: Path) -> None:
    """The real module in a process of its own, stopped while it writes its checkpoint."""
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "locum.bench.check", "spine-4gib", "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("writing olmoe-1b-7b"):
            break
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped" in said
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "out").exists()

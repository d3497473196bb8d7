"""What is measured when: the quick figures for a run, the rest where it lacks, nothing twice."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers_machine import KERNELS, made_curve
from locum.errors import LocumError
from locum.machine import MachineProfile, complete, curve, kernels, load_cached, measure, measuring
from locum.machine.disk import DiskRate, Source
from locum.machine.kernels import KernelRate
from locum.machine.measuring import lacks, planned_seconds
from locum.native import Native

MIB = 1 << 20


@pytest.fixture(autouse=True)
def did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measuring takes no time and notes what would have been measured."""
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("locum.machine.disk._FILE_BYTES", 8 * MIB)
    done: list[str] = []

    def noted(name: str, result: object) -> object:
        def step(*_: object, **__: object) -> object:
            done.append(name)
            return result

        return step

    monkeypatch.setattr(measuring, "measure_memory", noted("memory", {1: 2e10, 2: 3e10}))
    monkeypatch.setattr(measuring, "one_rate", noted("disk", DiskRate(1.5e9, 8 * MIB, 2, "direct")))
    monkeypatch.setattr(measuring, "measure_native", noted("native", KERNELS[:2]))
    monkeypatch.setattr(measuring, "load_native", lambda: Native(None))
    monkeypatch.setattr(curve, "measure_curve", noted("curve", made_curve()))
    return done


def torch_kernels() -> tuple[KernelRate, ...]:
    return KERNELS[2:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_a_run_measures_the_quick_figures_alone(folder: Path, did: list[str]) -> None:
    made = measure(folder)
    assert did == ["memory", "disk"]
    assert (made.curve, made.kernels) == ((), ())
    assert load_cached(folder) == made
    assert (lacks(None, kernels_too=False), lacks(made, kernels_too=False)) == (True, True)


def test_each_asks_for_what_lacks_and_no_more(folder: Path, did: list[str]) -> None:
    """A run, then simulate, then doctor: each adds to the profile what it needs."""
    measure(folder)
    did.clear()
    curved = complete(folder)
    assert did == ["curve"]
    assert (curved.disk_read_bytes_s, curved.curve, curved.kernels) == (1.5e9, made_curve(), ())
    assert (lacks(curved, kernels_too=False), lacks(curved, kernels_too=True)) == (False, True)
    did.clear()
    whole = complete(folder, other_kernels=torch_kernels)
    assert did == ["native"]
    assert whole.kernels == KERNELS
    assert not lacks(whole, kernels_too=True)
    did.clear()
    assert complete(folder, other_kernels=torch_kernels) == complete(folder) == load_cached(folder) == whole
    assert did == []
    complete(folder, other_kernels=torch_kernels, again=True)
    assert did == ["memory", "disk", "native", "curve"]


def test_the_native_kernels_are_asked_for_once_they_are_there(
    folder: Path, did: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "load_native", lambda: Native("not here"))
        patch.setattr(measuring, "measure_native", lambda: ())
        without = complete(folder, other_kernels=torch_kernels)
        assert without.kernels == KERNELS[2:]
        assert not lacks(without, kernels_too=True)
    assert complete(folder, other_kernels=torch_kernels).kernels == KERNELS


def test_one_temporary_file_serves_it_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[str]]] = []

    def look(source: Source, *_: object, **__: object) -> object:
        seen.append((os.fstat(source.descriptor).st_ino, os.listdir(folder)))
        return made_curve() if len(seen) > 1 else DiskRate(1.5e9, 8 * MIB, 2, "direct")

    monkeypatch.setattr(measuring, "one_rate", look)
    monkeypatch.setattr(curve, "measure_curve", look)
    complete(folder)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0][1] == os.listdir(folder) == []


@pytest.mark.parametrize("whole", [False, True])
def test_progress_goes_from_nothing_to_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    def pieces(source: object, order: list[object], told: Callable[[], object]) -> object:
        for _ in order:
            told()
        return made_curve()

    monkeypatch.setattr(curve, "measure_curve", pieces)
    monkeypatch.setattr(measuring, "cpu_count", lambda: 2)
    heard: list[tuple[str, float]] = []

    def tell(what: str, share: float) -> None:
        heard.append((what, share))

    if whole:
        complete(folder, tell, other_kernels=torch_kernels)
    else:
        measure(folder)
        complete(folder, tell)
    shares = [share for _, share in heard]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    names = list(dict.fromkeys(what for what, _ in heard))
    first = ["memory", "disk", "kernels", "kernels of torch"] if whole else []
    assert names == [*first, "disk by block size", "done"]
    # what is told is what begins, so there is something left to do
    assert shares[-2] < 1


@pytest.mark.parametrize(("processors", "most"), [(1, 20), (2, 20), (16, 25), (512, 28)])
def test_the_time_it_takes_is_counted(processors: int, most: float) -> None:
    assert len(curve.pieces(1 << 30)) * curve.PIECE_SECONDS == pytest.approx(12)
    whole = planned_seconds(processors)
    parts = [
        planned_seconds(processors, curve_too=False, kernels_too=False),
        len(curve.pieces(1 << 30)) * curve.PIECE_SECONDS,
        3 * len({1, processors}) * kernels.SECONDS,
    ]
    assert whole == pytest.approx(sum(parts))
    assert whole < most
    assert parts[0] <= 3 or processors > 2, "what a run waits for"


def test_a_disk_that_cannot_be_measured(folder: Path, did: list[str]) -> None:
    for way in (measure, complete):
        with pytest.raises(LocumError, match="cannot be measured"):
            way(folder / "no" / "such")
    assert did == []


def test_the_profile_says_what_it_depends_on(folder: Path) -> None:
    made: MachineProfile = measure(folder)
    assert {"processor", "processors to use", "device"} <= set(made.fingerprint)

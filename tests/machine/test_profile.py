"""The profile's cache: kept, found again, ignored when damaged; and real measurements, small."""

import json
import logging
import os
from pathlib import Path

import pytest

from locum.errors import LocumError
from locum.machine import MachineProfile, disk, load_cached, measure, profile
from locum.machine.disk import DiskRate, measure_disk
from locum.machine.memory import measure_memory

MIB = 1 << 20
SOUND = MachineProfile(
    disk_read_bytes_s=2e9,
    disk_block=8 * MIB,
    disk_threads=2,
    disk_mode="direct",
    memory_read_bytes_s={1: 2.6e10, 2: 3.1e10},
    cpu_model="a processor",
    cores=2,
    device="254:0",
    when="2026-01-02T03:04:05+00:00",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "measure_memory", lambda: {1: 2.5e10, 2: 3e10})
    monkeypatch.setattr(profile, "measure_disk", lambda path: DiskRate(1.5e9, 8 * MIB, 2, "direct"))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "profile.json"
    SOUND.save(path)
    assert MachineProfile.load(path) == SOUND
    assert os.listdir(path.parent) == ["profile.json"]
    assert json.loads(path.read_text())["schema"] == "locum.machine/1"
    assert SOUND.memory_bytes_s == 3.1e10


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "locum.machine/2"},
        {"disk_read_bytes_s": 0},
        {"disk_read_bytes_s": "fast"},
        {"disk_read_bytes_s": float("nan")},
        {"disk_read_bytes_s": float("inf")},
        {"memory_read_bytes_s": {}},
        {"memory_read_bytes_s": {"0": 1.0}},
        {"memory_read_bytes_s": {"one": 1.0}},
        {"memory_read_bytes_s": [1.0]},
        {"cores": 1.5},
        {"cores": True},
        {"cpu_model": None},
        {"extra": 1},
    ],
)
def test_a_damaged_profile_is_as_none(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "profile.json"
    SOUND.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert MachineProfile.load(path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "\xff"])
def test_other_files_are_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(text.encode("latin-1"))
    assert MachineProfile.load(path) is None


def test_measured_once_and_found_again(tmp_path: Path, cache: Path, quick: None) -> None:
    assert load_cached(tmp_path) is None
    told: list[tuple[str, float]] = []
    made = measure(tmp_path, lambda what, share: told.append((what, share)))
    assert load_cached(tmp_path) == made
    assert (made.disk_read_bytes_s, made.memory_read_bytes_s) == (1.5e9, {1: 2.5e10, 2: 3e10})
    assert [what for what, _ in told] == ["memory", "disk", "done"]
    assert [share for _, share in told] == sorted(share for _, share in told)
    (kept,) = cache.iterdir()
    kept.write_text(kept.read_text()[:-20])
    assert load_cached(tmp_path) is None
    measure(tmp_path)
    assert load_cached(tmp_path) is not None


def test_each_file_system_and_processor_has_its_own(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(tmp_path)
    file = tmp_path / "a file on it"
    file.touch()
    assert load_cached(file) is not None
    with monkeypatch.context() as patch:
        patch.setattr(profile, "cpu_model", lambda: "another")
        assert load_cached(tmp_path) is None
    monkeypatch.setattr(profile, "device_of", lambda path: "9:9")
    assert load_cached(tmp_path) is None


def test_a_cache_that_cannot_be_written_is_said_and_no_error(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING, logger="locum"):
        assert measure(tmp_path).cores >= 1
    assert "could not be kept" in caplog.text
    assert load_cached(tmp_path) is None
    assert load_cached(tmp_path / "no such path") is None


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert profile.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LOCUM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert profile.cache_folder() == tmp_path / "xdg" / "locum"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert profile.cache_folder() == Path.home() / ".cache" / "locum"


def test_cpu_model(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9B14\n")
    assert profile.cpu_model(tmp_path) == "AMD EPYC 9B14"
    assert profile.cpu_model(tmp_path / "none")


def test_disk_of_a_folder_without_a_big_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary file is written, read and removed; afterwards the folder is as before."""
    monkeypatch.setattr(disk, "_FILE_BYTES", 8 * MIB)
    (tmp_path / "small").write_bytes(b"x")
    rate = measure_disk(tmp_path, block=MIB, seconds=0.05)
    assert rate.bytes_s > 0
    assert (rate.block, rate.threads) == (MIB, 2)
    assert os.listdir(tmp_path) == ["small"]
    assert measure_disk(tmp_path / "small", block=MIB, seconds=0.05).bytes_s > 0


@pytest.mark.parametrize("refused", [False, True])
def test_disk_reads_the_biggest_file(tmp_path: Path, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read is a whole block of the biggest file; none comes twice before all have come once."""
    block = 4096
    (tmp_path / "small").write_bytes(b"x" * 40 * block)
    big = tmp_path / "big"
    big.write_bytes(os.urandom(100 * block + 5))
    seen: list[int] = []
    real_open, real_read = os.open, os.preadv

    def reading(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        assert os.fstat(descriptor).st_ino == big.stat().st_ino
        got = real_read(descriptor, buffers, offset)
        if got == len(buffers[0]) == block:
            seen.append(offset)
        return got

    def opening(path: str, flags: int, *rest: int, **more: int) -> int:
        if refused and flags & getattr(os, "O_DIRECT", 0):
            raise OSError(22, "Invalid argument")
        return real_open(path, flags, *rest, **more)

    monkeypatch.setattr(os, "preadv", reading)
    monkeypatch.setattr(os, "open", opening)
    rate = measure_disk(tmp_path, block=block, threads=1, seconds=0.1)
    assert rate.mode == ("buffered" if refused else "direct")
    reads = seen[0 if refused else 1 :]  # the first is the trial read
    assert len(reads) > 100
    assert sorted(reads[:100]) == [number * block for number in range(100)]
    assert reads[:100] != sorted(reads[:100])
    assert sorted(os.listdir(tmp_path)) == ["big", "small"]


def test_disk_errors_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LocumError, match="cannot be measured"):
        measure_disk(tmp_path / "no" / "such")
    big = tmp_path / "big"
    big.write_bytes(b"x" * 64 * 4096)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(LocumError, match="Input/output error"):
        measure_disk(big, block=4096, seconds=0.01)


def test_memory_is_measured_for_one_and_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (1, 3):
        monkeypatch.setattr("locum.machine.memory.cpu_count", lambda count=count: count)
        rates = measure_memory(seconds=0.01, buffer_bytes=4 * MIB)
        assert sorted(rates) == sorted({1, count})
        assert all(1e6 < rate < 1e13 for rate in rates.values())

"""The disk and the memory measured for real, small; nothing is left behind."""

import os
from pathlib import Path

import pytest

from locum.errors import LocumError
from locum.machine import disk
from locum.machine.disk import measure_disk, opened
from locum.machine.memory import measure_memory, thread_counts

MIB = 1 << 20


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


def test_one_temporary_file_serves_every_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_FILE_BYTES", 8 * MIB)
    with opened(tmp_path, MIB) as source:
        assert os.listdir(tmp_path) == [], "a process that is killed leaves nothing"
        disk.one_rate(source, block=MIB, seconds=0.01)
        assert source.size == 8 * MIB
    assert os.listdir(tmp_path) == []


def test_every_block_comes_once_before_any_comes_again() -> None:
    for blocks in (1, 2, 7, 100):
        offsets = disk._shuffled(blocks, 4096)
        for _ in range(3):
            assert sorted(next(offsets) for _ in range(blocks)) == [4096 * n for n in range(blocks)]


def test_numbers_of_threads() -> None:
    assert [thread_counts(n) for n in (1, 2, 3, 8, 12)] == [
        [1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12],
    ]  # fmt: skip


def test_memory_is_measured_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (1, 3):
        monkeypatch.setattr("locum.machine.memory.cpu_count", lambda count=count: count)
        rates = measure_memory(seconds=0.01, buffer_bytes=4 * MIB)
        assert sorted(rates) == thread_counts(count)
        assert all(1e6 < rate < 1e13 for rate in rates.values())

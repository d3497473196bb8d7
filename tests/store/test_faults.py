"""Faulty files: short reads, I/O errors, truncating and unlinking under a running mover, changes."""

import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers_gate import Gate
from helpers_store import Bench, index_of, plain_index, write_files
from helpers_store_movers import KINDS, Movers
from locum.errors import CheckpointError, LoadError, UsageError
from locum.residency.mover.base import Priority, State, Ticket
from locum.store import files, open_mover
from locum.store import layout as layouts
from locum.store.arena import Arena
from locum.store.direct import DirectMover
from locum.store.index import FileId, Span
from locum.store.pagecache import PageCacheMover

PAGE = 4096
Read = Callable[[int, memoryview, int], int]


def load(mover: DirectMover | PageCacheMover, bench: Bench, key: int = 0) -> Ticket:
    ticket = mover.start(key, bench.slots[key], Priority.DEMAND)
    mover.wait_any([ticket])
    return ticket


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lead", [0, 64, 8], ids=["aligned", "skewed", "staged"])
def test_short_reads_are_continued(
    kind: Movers, lead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may return less than asked: any whole blocks with direct I/O, any bytes without."""
    bench = Bench.of(plain_index(tmp_path, 3, 20 * PAGE + 100, lead=lead))
    rng, real = random.Random(7), files.raw_read
    mover = kind(bench.layout, bench.arena, threads=1)

    def short(descriptor: int, buffer: memoryview, offset: int) -> int:
        if len(buffer) <= PAGE:
            return real(descriptor, buffer, offset)
        part = rng.randrange(1, len(buffer) // PAGE + 1) * PAGE
        got = real(descriptor, buffer[:part], offset)
        return got if kind is DirectMover or got <= PAGE else got - rng.randrange(PAGE)

    monkeypatch.setattr(files, "raw_read", short)
    try:
        assert [load(mover, bench, key).state for key in range(3)] == [State.DONE] * 3
        assert not any(bench.wrong_bytes(key) for key in range(3))
        assert mover.counters.reads > 3
    finally:
        mover.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delivered", [0, 1, PAGE + 5, 3 * PAGE - 1])
def test_the_end_of_the_file_before_its_time(
    kind: Movers, delivered: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench.of(plain_index(tmp_path, 2, 3 * PAGE))
    mover = kind(bench.layout, bench.arena)
    real = files.raw_read

    def ends_early(descriptor: int, buffer: memoryview, offset: int) -> int:
        left = max(delivered - offset, 0)
        return min(real(descriptor, buffer, offset), left)

    monkeypatch.setattr(files, "raw_read", ends_early)
    try:
        ticket = load(mover, bench)
        assert ticket.state == State.FAILED
        assert isinstance(ticket.error, LoadError)
        message = str(ticket.error)
        assert bench.index.files[0].path in message
        assert "at byte 0" in message
        assert f"expected {3 * PAGE} bytes" in message
        assert f"got {delivered} bytes" in message
    finally:
        mover.close()


@pytest.mark.parametrize("kind", KINDS)
def test_io_errors_fail_one_load_only(kind: Movers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench.of(plain_index(tmp_path, 3, PAGE))
    mover = kind(bench.layout, bench.arena, threads=1)
    gate = Gate(monkeypatch)
    try:
        tickets = [mover.start(key, bench.slots[key], Priority.DEMAND) for key in range(3)]
        for verdict in ("ok", "eio", "ok"):
            gate.allow(verdict)
        while not all(ticket.terminal for ticket in tickets):
            mover.wait_any([ticket for ticket in tickets if not ticket.terminal])
        assert [ticket.state for ticket in tickets] == [State.DONE, State.FAILED, State.DONE]
        assert f"at byte {PAGE}" in str(tickets[1].error)
        assert isinstance(tickets[1].error, LoadError)
        again = mover.start(1, bench.slots[1], Priority.DEMAND)  # the caller retries, not the mover
        gate.allow()
        mover.wait_any([again])
        assert again.state == State.DONE
        assert not any(bench.wrong_bytes(key) for key in range(3))
    finally:
        mover.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_really_truncated_while_it_is_read(
    kind: Movers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two blocks finds the file cut in its middle."""
    monkeypatch.setattr(layouts, "BLOCK_BYTES", 4 * PAGE)
    monkeypatch.setattr("locum.store.pagecache.BLOCK_BYTES", 4 * PAGE)
    bench = Bench.of(plain_index(tmp_path, 2, 8 * PAGE))
    path = bench.index.files[0].path
    mover = kind(bench.layout, bench.arena, threads=1)
    gate = Gate(monkeypatch)
    try:
        ticket = mover.start(0, bench.slots[0], Priority.DEMAND)
        assert gate.next() == 0
        os.truncate(path, 5 * PAGE + 7)
        for _ in range(3):
            gate.allow()
        mover.wait_any([ticket])
        assert ticket.state == State.FAILED
        assert f"{path} at byte {4 * PAGE}" in str(ticket.error)
        assert f"expected {4 * PAGE} bytes; got {PAGE + 7} bytes" in str(ticket.error)
        gate.allow()
        assert load(mover, bench, 1).state == State.FAILED
    finally:
        mover.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_unlinked_file_stays_readable(kind: Movers, tmp_path: Path) -> None:
    bench = Bench.of(plain_index(tmp_path, 3, 5 * PAGE, lead=8))
    path = Path(bench.index.files[0].path)
    want = path.read_bytes()[8:]
    mover = kind(bench.layout, bench.arena)
    try:
        path.unlink()
        for key in range(3):
            assert load(mover, bench, key).state == State.DONE
            begin = bench.slots[key].offset + bench.layout.image_start(key)
            got = bytes(bench.arena.memory[begin : begin + 5 * PAGE])
            assert got == want[key * 5 * PAGE : (key + 1) * 5 * PAGE]
    finally:
        mover.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["longer", "shorter", "touched", "gone", "a folder"])
def test_files_that_are_not_the_indexed_ones_are_refused(kind: Movers, change: str, tmp_path: Path) -> None:
    bench = Bench.of(plain_index(tmp_path, 2, PAGE))
    path = Path(bench.index.files[0].path)
    if change == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "shorter":
        os.truncate(path, PAGE)
    elif change == "touched":
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    else:
        path.unlink()
        if change == "a folder":
            path.mkdir()
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CheckpointError, match=str(path)):
        kind(bench.layout, bench.arena)
    assert len(os.listdir("/proc/self/fd")) == descriptors, "a descriptor was left open"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_swapped_while_it_is_opened_is_refused(
    kind: Movers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the file that was opened, not the one that was there a moment before."""
    bench = Bench.of(plain_index(tmp_path, 2, PAGE))
    real = files.raw_open

    def swapping(path: str, flags: int) -> int:
        other = tmp_path / "other"
        other.write_bytes(b"x" * 2 * PAGE)
        os.utime(other, ns=(1, 1))
        os.replace(other, path)
        return real(path, flags)

    monkeypatch.setattr(files, "raw_open", swapping)
    with pytest.raises(CheckpointError, match="modification time"):
        kind(bench.layout, bench.arena)


def refuse_open(real: Callable[[str, int], int]) -> Callable[[str, int], int]:
    def refuse(path: str, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(path, flags)

    return refuse


@pytest.mark.parametrize("stage", ["open", "first read", "no O_DIRECT"])
def test_refused_direct_io_falls_back_and_says_so_once(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = write_files(tmp_path, [4 * PAGE, 4 * PAGE])
    index = index_of(made, [(PAGE, [[Span(n % 2, n * 100, PAGE, 0)] for n in range(6)])])
    bench = Bench.of(index)
    with monkeypatch.context() as patch:
        if stage == "open":
            patch.setattr(files, "raw_open", refuse_open(files.raw_open))
        elif stage == "first read":

            def invalid(*_: object) -> int:
                raise OSError(22, "Invalid argument")

            patch.setattr(files, "raw_read", invalid)
        else:
            patch.delattr(os, "O_DIRECT")
        with pytest.raises(UsageError, match="direct I/O is refused"):
            open_mover(index, bench.arena, kind="direct")
        with caplog.at_level(logging.WARNING, logger="locum"):
            mover = open_mover(index, bench.arena)
    try:
        assert isinstance(mover, PageCacheMover)
        tickets = [load(mover, bench, key) for key in range(6)]
        assert [ticket.state for ticket in tickets] == [State.DONE] * 6
        assert not any(bench.wrong_bytes(key) for key in range(6))
        assert [record.name for record in caplog.records] == ["locum"]
        assert "page cache" in caplog.text
        assert made[0].path in caplog.text
    finally:
        mover.close()


def test_open_mover_kinds(tmp_path: Path) -> None:
    bench = Bench.of(plain_index(tmp_path, 1, PAGE, lead=8))
    for kind in ("auto", "direct", "pagecache"):
        mover = open_mover(bench.index, bench.arena, kind=kind, layout=bench.layout)
        try:
            assert mover.layout is bench.layout
            assert load(mover, bench).state == State.DONE
            assert not bench.wrong_bytes(0)
        finally:
            mover.close()
    with pytest.raises(UsageError, match="turbo"):
        open_mover(bench.index, bench.arena, kind="turbo")  # type: ignore[arg-type]
    mover = open_mover(bench.index, bench.arena, kind="pagecache", align=1)
    assert mover.layout.image_start(0) == 8
    mover.close()


def test_a_lying_size_in_the_index_is_found_before_anything_is_read(tmp_path: Path) -> None:
    (real,) = write_files(tmp_path, [PAGE])
    lying = FileId(real.path, 2 * PAGE, real.mtime_ns)
    index = index_of((lying,), [(PAGE, [[Span(0, PAGE, PAGE, 0)]])])
    with pytest.raises(CheckpointError, match="size"):
        open_mover(index, Arena(1 << 20))

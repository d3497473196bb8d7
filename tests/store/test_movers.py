"""One conformance suite over the real movers: bytes, cancelling, dependencies, closing."""

import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_gate import Gate
from helpers_store import Bench, index_of, plain_index, write_files
from helpers_store_movers import ALL_KINDS, KINDS, AnyMover, Movers
from locum.errors import LoadError
from locum.residency.mover.base import Priority, State, Ticket
from locum.residency.mover.faulty import FaultyMover
from locum.store import layout as layouts
from locum.store import pagecache
from locum.store.direct import DirectMover
from locum.store.index import ExpertIndex, Span
from locum.store.pagecache import PageCacheMover

PAGE = 4096
PLACES = ["/dev/shm", None]


def finish(mover: AnyMover, tickets: list[Ticket]) -> None:
    left = list(tickets)
    while left:
        mover.wait_any(left)
        left = [ticket for ticket in left if not ticket.terminal]


@pytest.fixture(params=PLACES, ids=["tmpfs", "disk"])
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    if request.param and not os.path.isdir(request.param):
        pytest.skip("no tmpfs here")
    with tempfile.TemporaryDirectory(dir=request.param) as folder:
        yield Path(folder)


def random_index(rng: random.Random, folder: Path) -> ExpertIndex:
    """Several files and layers; odd, aligned, congruent spans; gaps; the last span of a file ends at EOF."""
    ends = [0] * rng.randint(1, 3)
    layers = []
    for _ in range(rng.randint(1, 3)):
        experts, image = [], 0
        style = rng.choice(["odd", "aligned", "congruent"])
        for _ in range(rng.randint(1, 4)):
            spans, at = [], 0
            skew = rng.choice([0, 64, 128, 8])
            for _ in range(rng.randint(1, 4)):
                at += rng.choice([0, 0, 64, 100])
                length = rng.choice([1, 100, PAGE, 3 * PAGE, rng.randint(1, 60000)])
                file = rng.randrange(len(ends))
                offset = ends[file] + rng.choice([0, 0, 7, 5000])
                if style != "odd":
                    offset += ((skew if style == "congruent" else 0) + at - offset) % PAGE
                spans.append(Span(file, offset, length, at))
                ends[file] = offset + length
                at += length
            image = max(image, at)
            rng.shuffle(spans)
            experts.append(spans)
        layers.append((image, experts))
    return index_of(write_files(folder, [max(end, 1) for end in ends], rng.randrange(2**30)), layers)


@pytest.mark.parametrize("kind", ALL_KINDS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), small=st.booleans(), align=st.sampled_from([1, 64]))
def test_every_image_is_the_files_bytes(kind: Movers, seed: int, small: bool, align: int) -> None:
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        if small:
            patch.setattr(layouts, "BLOCK_BYTES", 2 * PAGE)
            patch.setattr(layouts, "STAGING_BYTES", PAGE)
            patch.setattr(pagecache, "BLOCK_BYTES", 3 * PAGE)
        bench = Bench.of(random_index(rng, Path(folder)), align)
        bench.arena.memory[:] = b"\xaa" * bench.arena.size
        mover = kind(bench.layout, bench.arena, threads=rng.randint(1, 3))
        try:
            keys = list(bench.slots)
            rng.shuffle(keys)
            loaded = keys[: rng.randint(1, len(keys))]
            tickets = [mover.start(key, bench.slots[key], rng.choice(list(Priority))) for key in loaded]
            finish(mover, tickets)
        finally:
            mover.close()
        assert [ticket.state for ticket in tickets] == [State.DONE] * len(tickets)
        for key in loaded:
            assert not bench.wrong_bytes(key)
        for key in set(keys) - set(loaded):
            assert bench.holds_only(bench.slots[key], 0xAA), "bytes outside the loaded slots changed"
        assert bytes(bench.arena.memory[:PAGE]) == b"\xaa" * PAGE
        assert mover.counters.bytes_read >= sum(bench.index.stored_bytes(key) for key in loaded)


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_a_file_on_disk_and_tmpfs(kind: Movers, place: Path) -> None:
    """The last expert ends at an odd byte, exactly where its file does."""
    index = plain_index(place, experts=3, image=PAGE * 5 + 321, lead=1000)
    bench = Bench.of(index)
    mover = kind(bench.layout, bench.arena)
    try:
        tickets = [mover.start(key, slot, Priority.DEMAND) for key, slot in bench.slots.items()]
        finish(mover, tickets)
        assert [(t.state, t.error) for t in tickets] == [(State.DONE, None)] * 3
        assert not any(bench.wrong_bytes(key) for key in bench.slots)
    finally:
        mover.close()


@pytest.mark.parametrize("kind", ALL_KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_terminal_ticket_is_never_written_again(kind: Movers, seed: int) -> None:
    """Storms of start, cancel and promote: as soon as a ticket is terminal its slot is ours, and stays so."""
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(layouts, "BLOCK_BYTES", 4 * PAGE)
        patch.setattr(layouts, "STAGING_BYTES", 4 * PAGE)
        patch.setattr(pagecache, "BLOCK_BYTES", 4 * PAGE)
        image = 16 * PAGE
        bench = Bench.of(plain_index(Path(folder), 12, image, lead=rng.choice([0, 8, 64])))
        mover = kind(bench.layout, bench.arena, threads=rng.randint(1, 3))
        owner: dict[int, Ticket] = {}  # slot number (the key it was cut for) -> its open ticket
        filled: dict[int, int] = {}
        slots = list(bench.slots.values())

        def settle() -> None:
            for number, ticket in list(owner.items()):
                if ticket.terminal:
                    if ticket.state == State.DONE:
                        assert not bench.wrong_bytes(ticket.key, ticket.slot)
                    filled[number] = rng.randrange(256)
                    bench.fill(ticket.slot, filled[number])
                    del owner[number]

        try:
            for _ in range(150):
                free = [n for n in range(len(slots)) if n not in owner]
                act = rng.random()
                if free and act < 0.5:
                    number = rng.choice(free)
                    assert number not in filled or bench.holds_only(slots[number], filled[number])
                    filled.pop(number, None)
                    key, priority = rng.choice(list(bench.slots)), rng.choice(list(Priority))
                    owner[number] = mover.start(key, slots[number], priority)
                elif owner and act < 0.85:
                    ticket = rng.choice(list(owner.values()))
                    terminal = mover.cancel(ticket)
                    assert terminal == ticket.terminal or not terminal  # it may end right after a False
                elif owner:
                    mover.promote(rng.choice(list(owner.values())), Priority.DEMAND)
                settle()
            finish(mover, list(owner.values()))
            settle()
        finally:
            mover.close()
        for number, value in filled.items():
            assert bench.holds_only(slots[number], value)


@pytest.mark.parametrize("kind", KINDS)
def test_dependencies(kind: Movers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench.of(plain_index(tmp_path, 8, PAGE))
    gate, slots = Gate(monkeypatch), bench.slots
    if kind is DirectMover:
        gate.allow()  # the probe for direct I/O
    mover = kind(bench.layout, bench.arena, threads=2)
    try:
        if kind is DirectMover:
            gate.next()
        first = mover.start(0, slots[0], Priority.SPECULATIVE)
        then = mover.start(1, slots[1], Priority.DEMAND, after=first)
        last = mover.start(2, slots[2], Priority.DEMAND, after=then)
        mover.promote(last, Priority.DEMAND)
        assert gate.next() == 0
        assert (then.state, last.state) == (State.QUEUED, State.QUEUED)
        for offset in (PAGE, 2 * PAGE):
            gate.allow()
            assert gate.next() == offset  # the next of the chain, never before
        gate.allow()
        mover.wait_any([last])
        assert [t.state for t in (first, then, last)] == [State.DONE] * 3
        late = mover.start(3, slots[3], Priority.DEMAND, after=last)  # after one that is done: at once
        assert gate.next() == 3 * PAGE
        gate.allow("eio")
        mover.wait_any([late])
        assert late.state == State.FAILED
        orphan = mover.start(4, slots[4], Priority.DEMAND, after=late)
        assert orphan.state == State.FAILED
        assert isinstance(orphan.error, LoadError)
        assert "Input/output error" in str(orphan.error)

        held = mover.start(5, slots[5], Priority.DEMAND)
        chain = [mover.start(6, slots[6], Priority.DEMAND, after=held)]
        chain.append(mover.start(7, slots[7], Priority.DEMAND, after=chain[0]))
        assert gate.next() == 5 * PAGE
        assert mover.cancel(held) is False
        assert held.state == State.RUNNING
        gate.allow()
        mover.wait_any(chain[1:])
        assert held.state == State.CANCELLED
        assert [t.state for t in chain] == [State.FAILED] * 2
    finally:
        mover.close()


@pytest.mark.parametrize("kind", KINDS)
def test_closing_while_busy(kind: Movers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench.of(plain_index(tmp_path, 6, PAGE))
    opened, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    mover = kind(bench.layout, bench.arena, threads=1)
    gate = Gate(monkeypatch)
    tickets = [mover.start(key, bench.slots[key], Priority.DEMAND) for key in range(5)]
    tickets.append(mover.start(5, bench.slots[5], Priority.DEMAND, after=tickets[4]))
    assert gate.next() == 0
    closer = threading.Thread(target=mover.close)
    closer.start()
    mover.wait_any(tickets[1:])  # what waited is cancelled while the block is still under way
    assert tickets[0].state == State.RUNNING
    gate.allow()
    closer.join()
    assert [t.state for t in tickets] == [State.CANCELLED] * 6
    mover.close()
    assert set(os.listdir("/proc/self/fd")) <= opened
    assert set(threading.enumerate()) <= threads
    with pytest.raises(LoadError, match="closed"):
        mover.start(0, bench.slots[0], Priority.DEMAND)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("act", ["cancel", "promote"])
def test_terminal_tickets_do_not_change(kind: Movers, act: str, tmp_path: Path) -> None:
    bench = Bench.of(plain_index(tmp_path, 1, PAGE))
    mover = kind(bench.layout, bench.arena)
    try:
        ticket = mover.start(0, bench.slots[0], Priority.NEXT)
        mover.wait_any([ticket])
        if act == "cancel":
            assert mover.cancel(ticket) is True
        else:
            mover.promote(ticket, Priority.DEMAND)
        assert (ticket.state, ticket.priority) == (State.DONE, Priority.NEXT)
    finally:
        mover.close()


def test_counters_are_what_was_asked_and_copied(tmp_path: Path) -> None:
    """Hand-worked: 3 pages at byte 0 land directly; 3 pages at byte 8 need four pages and a copy of three."""
    files = write_files(tmp_path, [8 * PAGE])
    cases: list[tuple[Callable[..., DirectMover | PageCacheMover], int, int, int]] = [
        (DirectMover, 0, 3 * PAGE, 0),
        (DirectMover, 8, 4 * PAGE, 3 * PAGE),
        (DirectMover, 64, 4 * PAGE, 0),
        (PageCacheMover, 8, 3 * PAGE, 0),
    ]
    for kind, offset, read, copied in cases:
        bench = Bench.of(index_of(files, [(3 * PAGE, [[Span(0, offset, 3 * PAGE, 0)]])]))
        mover = kind(bench.layout, bench.arena)
        mover.wait_any([mover.start(0, bench.slots[0], Priority.DEMAND)])
        mover.close()
        got = mover.counters
        assert (got.bytes_read, got.bytes_copied, got.reads) == (read, copied, 1), (kind, offset)
        assert got.busy_seconds > 0


@pytest.mark.parametrize("verdict", ["ok", "eio", "cancel"])
def test_waiting_for_a_ticket_of_another_mover(
    verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tiers, each with its own reader: the upper load begins only when the lower one is there."""
    bench = Bench.of(plain_index(tmp_path, 4, PAGE))
    upper, lower = (DirectMover(bench.layout, bench.arena, threads=2) for _ in range(2))
    gate = Gate(monkeypatch)
    try:
        source = lower.start(0, bench.slots[0], Priority.DEMAND)
        assert gate.next() == 0
        ticket = upper.start(1, bench.slots[1], Priority.SPECULATIVE, after=source)
        then = upper.start(2, bench.slots[2], Priority.DEMAND, after=ticket)
        dropped = upper.start(3, bench.slots[3], Priority.DEMAND, after=source)
        assert upper.cancel(dropped) is True
        upper.promote(ticket, Priority.DEMAND)
        assert gate.arrived.empty()
        if verdict == "cancel":
            assert lower.cancel(source) is False
        gate.allow("eio" if verdict == "eio" else "ok")
        if verdict == "ok":
            for offset in (PAGE, 2 * PAGE):
                assert gate.next() == offset
                gate.allow()
        finish(upper, [ticket, then])
        wanted = State.DONE if verdict == "ok" else State.FAILED
        assert [t.state for t in (ticket, then, dropped)] == [wanted, wanted, State.CANCELLED]
        late = upper.start(3, bench.slots[3], Priority.DEMAND, after=source)  # it has ended long since
        gate.allow()
        finish(upper, [late])
        assert late.state == wanted
        if verdict == "ok":
            assert not any(bench.wrong_bytes(key) for key in range(4))
    finally:
        upper.close()
        lower.close()


def test_closing_while_waiting_for_another_mover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench.of(plain_index(tmp_path, 2, PAGE))
    upper, lower = (DirectMover(bench.layout, bench.arena) for _ in range(2))
    gate = Gate(monkeypatch)
    source = lower.start(0, bench.slots[0], Priority.DEMAND)
    ticket = upper.start(1, bench.slots[1], Priority.DEMAND, after=source)
    upper.close()
    assert ticket.state == State.CANCELLED
    gate.allow()
    lower.wait_any([source])
    lower.close()


def test_under_a_wrapper(tmp_path: Path) -> None:
    """A faulty mover in front of a real one hands its own tickets down as `after`."""
    bench = Bench.of(plain_index(tmp_path, 12, PAGE))
    mover = FaultyMover(
        DirectMover(bench.layout, bench.arena), failures=0.3, delays=0.3, delay_s=1e-3, seed=5
    )
    try:
        before = None
        chain = []
        for key, slot in bench.slots.items():
            before = mover.start(key, slot, Priority.DEMAND, after=before)
            chain.append(before)
        while not all(ticket.terminal for ticket in chain):
            mover.wait_any([ticket for ticket in chain if not ticket.terminal])
        states = [ticket.state for ticket in chain]
        broken = states.index(State.FAILED)
        assert states == [State.DONE] * broken + [State.FAILED] * (len(chain) - broken)
        assert not any(bench.wrong_bytes(key) for key in range(broken))
    finally:
        mover.close()

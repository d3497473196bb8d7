"""Where an expert's image lies in its slot, and by which reads its bytes get there. Plain arithmetic.

Direct reads move whole 4096-byte blocks between block-aligned places, and tensors in safetensors files begin
anywhere. A run of file bytes lands *directly* when its file offset and its place in the slot agree modulo
4096: the enclosing blocks are read straight into the slot. The image may start up to 4095 bytes into the slot
to make them agree, as long as that start keeps the tensors' alignment. Every other run is *staged*: read into
a bounded buffer and copied from there.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from locum.errors import CheckpointError
from locum.machine.pages import PAGE
from locum.store.index import ALIGN, ExpertIndex, LayerIndex, Span, merge_spans
from locum.units import KIB, MIB

BLOCK_BYTES = 4 * MIB
"""Most that one direct read brings; longer runs are split evenly, so that demand can overtake."""
READERS = 4
"""Threads that read. Two keep a disk busy; while Python deals with the blocks of two, the other two read."""
STAGING_BYTES = 4 * MIB
"""Size of one thread's staging buffer."""
GAP_BYTES = 64 * KIB
"""Staged runs this close in a file are read together: the gap costs less than another request."""


@dataclass(frozen=True, slots=True)
class Run:
    """`length` bytes at `offset` of file number `file` belong at byte `at` of the slot."""

    file: int
    offset: int
    length: int
    at: int


@dataclass(frozen=True, slots=True)
class DirectBlock:
    """Read [offset, offset + length) of `file` straight to byte `at` of the slot; all multiples of 4096.

    The first `need` bytes must arrive (the rest may lie past the end of the file). The first `keep` bytes at
    `at` belong to what landed before and are put back afterwards. `joins`: it goes on where the block before
    it ends, so both may be read at once; other blocks may overlap at their rims and are read one by one.
    """

    file: int
    offset: int
    length: int
    need: int
    at: int
    keep: int
    joins: bool


@dataclass(frozen=True, slots=True)
class StagedBlock:
    """Read [offset, offset + length) of `file` to the staging buffer, then carry out `copies`.

    Each copy is (byte in staging, byte in slot, length). `offset` and `length` are multiples of 4096. `joins`
    as for a direct block.
    """

    file: int
    offset: int
    length: int
    need: int
    copies: tuple[tuple[int, int, int], ...]
    joins: bool


Block = DirectBlock | StagedBlock


def round_up(value: int, unit: int = PAGE) -> int:
    """The smallest multiple of `unit` that is at least `value`."""
    return -(-value // unit) * unit


def split(length: int, limit: int) -> Iterator[tuple[int, int]]:
    """(start, length) of even parts of at most `limit` bytes; all but the last part are multiples of 4096."""
    parts = -(-length // limit)
    step = round_up(-(-length // parts)) if parts else 0
    for start in range(0, length, step or 1):
        yield start, min(step, length - start)


class Layout:
    """The places of an index's experts in their slots, for tensors aligned to `align` bytes (at most 4096).

    `align` is 64 where torch computes on the slot, 1 where only our own kernels do. All movers share one
    layout, so slot sizes do not depend on the mover. Raises `CheckpointError` when the index points outside a
    file or an image.
    """

    def __init__(self, index: ExpertIndex, align: int = ALIGN) -> None:
        assert PAGE % align == 0, "the alignment divides 4096"
        self.index, self.align = index, align
        self._stride = index.stride
        self._starts = array("H", bytes(2 * self._stride * len(index.layers)))
        self.staged_experts = 0
        """How many experts need the staging buffer."""
        reach: dict[int, int] = defaultdict(int)
        for number, layer in enumerate(index.layers):
            for expert, spans in enumerate(layer.experts):
                self._check(layer, expert, spans)
                start, staged = _choose_start(merge_spans(spans), align)
                self._starts[number * self._stride + expert] = start
                self.staged_experts += staged
                reach[layer.image_bytes] = max(reach[layer.image_bytes], start + layer.image_bytes)
        self._slot_bytes = {image: round_up(end) for image, end in reach.items()}

    def _check(self, layer: LayerIndex, expert: int, spans: Sequence[Span]) -> None:
        end = 0
        for span in sorted(spans, key=lambda span: span.at):
            where = f"expert {expert} of {layer.module}"
            if not 0 <= span.file < len(self.index.files) or span.length <= 0 or span.offset < 0:
                raise CheckpointError("the expert index makes no sense", where=where, got=span)
            file = self.index.files[span.file]
            if span.offset + span.length > file.size:
                raise CheckpointError(
                    f"expert weights lie past the end of {file.path}",
                    where=where,
                    allowed=f"at most {file.size} bytes",
                    got=span.offset + span.length,
                    todo="Fetch the checkpoint again",
                )
            if span.at < end or span.at + span.length > layer.image_bytes:
                raise CheckpointError("the parts of an expert overlap or overrun", where=where, got=span)
            end = span.at + span.length

    def slot_bytes(self, layer: int) -> int:
        """Bytes a slot needs for any expert of MoE layer number `layer`: a multiple of 4096.

        The same for all experts of equal image size in the model, so that size classes stay few.
        """
        return self._slot_bytes[self.index.layers[layer].image_bytes]

    def image_start(self, key: int) -> int:
        """The byte of its slot where this expert's image begins: below 4096, a multiple of `align`."""
        return self._starts[key]

    def runs(self, key: int) -> list[Run]:
        """The expert's file bytes and their places in the slot, in ascending place, neighbours merged."""
        start = self._starts[key]
        layer, expert = divmod(key, self._stride)
        spans = self.index.layers[layer].experts[expert]
        return [Run(s.file, s.offset, s.length, start + s.at) for s in merge_spans(spans)]

    def blocks(self, key: int) -> list[Block]:
        """The direct reads that bring this expert, to be carried out in this order by one thread.

        Direct blocks come first, in ascending place. Each may spoil up to 4095 bytes on either side: what
        lies before is put back (`keep`), what lies behind has yet to land.
        """
        runs = self.runs(key)
        direct = [run for run in runs if (run.offset - run.at) % PAGE == 0]
        staged = [run for run in runs if (run.offset - run.at) % PAGE != 0]
        blocks: list[Block] = []
        for number, run in enumerate(direct):
            blocks.extend(_direct(run, spoils=number > 0))
        for group in _neighbours(staged):
            blocks.extend(_staged(group))
        return blocks


def _choose_start(spans: Sequence[Span], align: int) -> tuple[int, bool]:
    """(image start that lets most bytes land directly, whether some bytes are staged all the same)."""
    skews: Counter[int] = Counter()
    for span in spans:
        skews[(span.offset - span.at) % PAGE] += span.length
    fit = [(-count, skew) for skew, count in skews.items() if skew % align == 0]
    start = min(fit)[1] if fit else 0
    return start, any(skew != start for skew in skews)


def _direct(run: Run, spoils: bool) -> Iterator[DirectBlock]:
    head = run.at % PAGE
    low, end = run.offset - head, run.offset + run.length
    for start, length in split(round_up(end - low), BLOCK_BYTES):
        yield DirectBlock(
            file=run.file,
            offset=low + start,
            length=length,
            need=min(length, end - low - start),
            at=run.at - head + start,
            keep=head if spoils and start == 0 else 0,
            joins=start > 0,
        )


def _neighbours(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Groups of runs close enough in one file to be read together, each in ascending offset."""
    group: list[Run] = []
    end = 0
    for run in sorted(runs, key=lambda run: (run.file, run.offset)):
        if group and (run.file != group[0].file or run.offset - end > GAP_BYTES):
            yield group
            group = []
        end = max(end, run.offset + run.length) if group else run.offset + run.length
        group.append(run)
    if group:
        yield group


def _staged(group: Sequence[Run]) -> Iterator[StagedBlock]:
    low = group[0].offset - group[0].offset % PAGE
    high = max(run.offset + run.length for run in group)
    for start, length in split(round_up(high - low), STAGING_BYTES):
        first, last = low + start, min(low + start + length, high)
        copies = []
        for run in group:
            begin, end = max(run.offset, first), min(run.offset + run.length, last)
            if begin < end:
                copies.append((begin - first, run.at + begin - run.offset, end - begin))
        if copies:
            need = max(source + size for source, _, size in copies)
            yield StagedBlock(run.file, first, length, need, tuple(copies), start > 0)

"""Random files, random expert indexes over them, and the images by brute force."""

import random
from dataclasses import dataclass
from pathlib import Path

from locum.machine.pages import PAGE
from locum.residency.mover.base import Slot
from locum.store.arena import Arena
from locum.store.index import ExpertIndex, FileId, LayerIndex, Matrix, Piece, Span, TensorView
from locum.store.layout import Layout


def raw_view(name: str, shape: tuple[int, ...], dtype: str, at: int = 0) -> TensorView:
    """A parameter that is stored as it is multiplied."""
    return TensorView(name, shape, (Matrix("raw", shape, (Piece("weight", dtype, shape, at),)),))


def file_id(path: Path) -> FileId:
    found = path.stat()
    return FileId(str(path), found.st_size, found.st_mtime_ns)


def write_files(folder: Path, sizes: list[int], seed: int = 0) -> tuple[FileId, ...]:
    rng = random.Random(seed)
    made = []
    for number, size in enumerate(sizes):
        path = folder / f"shard-{number}.bin"
        path.write_bytes(rng.randbytes(size))
        made.append(file_id(path))
    return tuple(made)


def index_of(files: tuple[FileId, ...], layers: list[tuple[int, list[list[Span]]]]) -> ExpertIndex:
    """An index from (image bytes, spans per expert) per layer."""
    return ExpertIndex(
        files=files,
        layers=tuple(
            LayerIndex(
                module=f"model.layers.{number}.mlp.experts",
                layer=number,
                image_bytes=image,
                tensors=(raw_view("down_proj", (image,), "uint8"),),
                experts=tuple(tuple(spans) for spans in experts),
            )
            for number, (image, experts) in enumerate(layers)
        ),
        identity="test",
    )


def plain_index(folder: Path, experts: int, image: int, lead: int = 0, seed: int = 0) -> ExpertIndex:
    """One layer of `experts`, one span each, one after the other behind `lead` bytes of one file."""
    files = write_files(folder, [lead + experts * image], seed)
    return index_of(files, [(image, [[Span(0, lead + e * image, image, 0)] for e in range(experts)])])


@dataclass
class Bench:
    """An arena cut into one slot per expert of an index, and what each image must be."""

    index: ExpertIndex
    layout: Layout
    arena: Arena
    slots: dict[int, Slot]

    @classmethod
    def of(cls, index: ExpertIndex, align: int = 64) -> "Bench":
        layout = Layout(index, align)
        slots, offset = {}, PAGE  # a page in front, so that an underrun shows too
        for number, layer in enumerate(index.layers):
            for expert in range(len(layer.experts)):
                slots[index.key_of(number, expert)] = Slot(offset, layout.slot_bytes(number))
                offset += layout.slot_bytes(number)
        arena = Arena(offset + PAGE)
        arena.commit(0, arena.size)
        return cls(index, layout, arena, slots)

    def wrong_bytes(self, key: int, slot: Slot | None = None) -> list[tuple[Span, int]]:
        """The spans of `key` whose bytes in the slot differ from the file's, read afresh and plainly."""
        slot = slot or self.slots[key]
        begin = slot.offset + self.layout.image_start(key)
        wrong = []
        for span in self.index.spans(key):
            with open(self.index.files[span.file].path, "rb") as file:
                file.seek(span.offset)
                want = file.read(span.length)
            got = bytes(self.arena.memory[begin + span.at : begin + span.at + span.length])
            assert len(want) == span.length
            if got != want:
                wrong.append((span, next(i for i in range(span.length) if got[i] != want[i])))
        return wrong

    def fill(self, slot: Slot, value: int) -> None:
        self.arena.memory[slot.offset : slot.offset + slot.size] = bytes([value]) * slot.size

    def holds_only(self, slot: Slot, value: int) -> bool:
        return bytes(self.arena.memory[slot.offset : slot.offset + slot.size]) == bytes([value]) * slot.size

"""`DirectMover`: direct I/O into the arena, past the page cache. The fast path."""

import threading
from collections.abc import Sequence

import numpy as np

from locum.machine.pages import Pages
from locum.store.arena import Arena
from locum.store.checks import Verify
from locum.store.files import Files
from locum.store.layout import READERS, STAGING_BYTES, Block, DirectBlock, Layout, StagedBlock
from locum.store.reader import ReaderMover, Served


class DirectMover(ReaderMover[Block]):
    """Reads whole aligned blocks with O_DIRECT, straight into slots where alignment allows, else by staging.

    Raises `DirectIORefusedError` where the file system does not offer direct I/O, `CheckpointError` when
    files are missing or have changed.
    """

    def __init__(
        self, layout: Layout, arena: Arena, threads: int = READERS, verify: Verify = "first"
    ) -> None:
        self._local = threading.local()
        self.staging_bytes = threads * STAGING_BYTES if layout.staged_experts else 0
        """Memory the staging buffers take, all threads together; 0 when every expert lands directly."""
        super().__init__(layout, arena, Files(layout.index.files, direct=True), threads, verify)

    def _steps(self, key: int) -> Sequence[Block]:
        return self.layout.blocks(key)

    def _joins(self, step: Block) -> bool:
        return step.joins

    def _serve(self, step: Block, slot: memoryview) -> Served:
        return self._land(step, slot) if isinstance(step, DirectBlock) else self._stage(step, slot)

    def _land(self, block: DirectBlock, slot: memoryview) -> Served:
        kept = bytes(slot[block.at : block.at + block.keep])
        target = slot[block.at : block.at + block.length]
        asked, reads = self._files.read(block.file, target, block.offset, block.need)
        slot[block.at : block.at + block.keep] = kept
        return Served(asked, 2 * block.keep, reads)

    def _stage(self, block: StagedBlock, slot: memoryview) -> Served:
        staging = self._staging()[: block.length]
        asked, reads = self._files.read(block.file, staging, block.offset, block.need)
        source, target = np.frombuffer(staging, np.uint8), np.frombuffer(slot, np.uint8)
        copied = 0
        for begin, at, length in block.copies:
            np.copyto(target[at : at + length], source[begin : begin + length])  # frees the interpreter lock
            copied += length
        return Served(asked, copied, reads)

    def _staging(self) -> memoryview:
        """This thread's staging buffer, made when first needed; it goes with the thread."""
        pages: Pages | None = getattr(self._local, "pages", None)
        if pages is None:
            pages = self._local.pages = Pages(STAGING_BYTES)
        return pages.memory

"""`PageCacheMover`: buffered reads through the page cache. The portable path."""

from collections.abc import Sequence

from locum.store.arena import Arena
from locum.store.checks import Verify
from locum.store.files import Files
from locum.store.layout import READERS, Layout, Run, split
from locum.store.reader import ReaderMover, Served
from locum.units import MIB

BLOCK_BYTES = 8 * MIB


class PageCacheMover(ReaderMover[Run]):
    """Reads each run to its place with `preadv` and drops the pages it went through: the arena is the cache.

    Costs about twenty times the processor time of direct I/O, but works on every file system. Raises
    `CheckpointError` when files are missing or have changed.
    """

    staging_bytes = 0

    def __init__(
        self, layout: Layout, arena: Arena, threads: int = READERS, verify: Verify = "first"
    ) -> None:
        files = Files(layout.index.files, direct=False)
        files.expect_random()
        super().__init__(layout, arena, files, threads, verify)

    def _steps(self, key: int) -> Sequence[Run]:
        return [
            Run(run.file, run.offset + start, length, run.at + start)
            for run in self.layout.runs(key)
            for start, length in split(run.length, BLOCK_BYTES)
        ]

    def _joins(self, step: Run) -> bool:
        return True

    def _serve(self, step: Run, slot: memoryview) -> Served:
        target = slot[step.at : step.at + step.length]
        asked, reads = self._files.read(step.file, target, step.offset, step.length)
        self._files.forget(step.file, step.offset, step.length)
        return Served(asked, 0, reads)

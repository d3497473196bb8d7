"""The movers that the conformance suite runs over."""

from locum.residency.mover.base import Ticket
from locum.residency.mover.virtual import VirtualMover
from locum.store import Arena, Layout, ReadCounters
from locum.store.direct import DirectMover
from locum.store.pagecache import PageCacheMover


class Virtual(VirtualMover):
    """The virtual mover with bytes: every block scribbles over the slot, the last one brings the image."""

    def __init__(self, layout: Layout, arena: Arena, threads: int = 2) -> None:
        self.layout = layout
        self.counters = ReadCounters()
        super().__init__(channels=threads, blocks_of=lambda key: key % 3 + 1, jitter=1.0, write=self._bytes)
        self._arena = arena

    def _bytes(self, ticket: Ticket, last: bool) -> None:
        assert not ticket.terminal
        begin = ticket.slot.offset
        slot = self._arena.memory[begin : begin + ticket.slot.size]
        slot[:] = b"\x99" * len(slot)
        index = self.layout.index
        self.counters = ReadCounters(self.counters.bytes_read + last * index.stored_bytes(ticket.key))
        for span in index.spans(ticket.key) if last else ():
            with open(index.files[span.file].path, "rb") as file:
                file.seek(span.offset)
                at = self.layout.image_start(ticket.key) + span.at
                slot[at : at + span.length] = file.read(span.length)


AnyMover = DirectMover | PageCacheMover | Virtual
Movers = type[DirectMover] | type[PageCacheMover]
KINDS = [DirectMover, PageCacheMover]
ALL_KINDS = [*KINDS, Virtual]

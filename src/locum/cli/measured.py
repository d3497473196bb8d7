"""What `locum doctor` shows of the machine's profile: the disk's curve and the kernels, as tables."""

from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from locum.cli.output import table
from locum.machine.curve import DiskPoint
from locum.machine.profile import MachineProfile
from locum.units import MIB, format_bytes, format_rate

_MUCH = MIB
"""Huge pages matter to blocks from this size on: smaller ones are few pages anyway."""


def measured_pages(profile: MachineProfile) -> list[RenderableType]:
    """The tables of what was measured; none of what was not."""
    pages: list[RenderableType] = []
    if profile.curve:
        pages += ["", disk_table(profile.curve)]
    if profile.kernels:
        pages += ["", kernel_table(profile)]
    return pages


def disk_table(curve: Sequence[DiskPoint]) -> RenderableType:
    """Rates into huge pages by block size (rows) and threads (columns), the best marked with a star."""
    huge = {(point.block, point.threads): point.bytes_s for point in curve if point.huge_pages}
    blocks, threads = (sorted(set(part)) for part in zip(*huge, strict=True))
    best = max(huge, key=lambda place: huge[place])
    page = Table.grid(padding=(0, 2))
    page.show_header, page.header_style = True, "dim"
    page.add_column(Text("read in blocks of"))
    for count in threads:
        page.add_column(Text(f"{count} thread{'s' if count > 1 else ''} "), justify="right", no_wrap=True)
    for block in blocks:
        cells = [
            Text(f"{format_rate(huge[block, count])}*", style="bold green")
            if (block, count) == best
            else Text(f"{format_rate(huge[block, count])} ")
            for count in threads
        ]
        page.add_row(Text(format_bytes(block)), *cells)
    title = Text("Disk, by random reads into huge pages (* the best)", style="bold")
    return Group(title, page, Text(huge_pages_line(curve)))


def huge_pages_line(curve: Sequence[DiskPoint]) -> str:
    """How much faster huge pages make large reads: the median over what was measured, and its range."""
    rates = {(point.block, point.threads, point.huge_pages): point.bytes_s for point in curve}
    least = min(_MUCH, max(point.block for point in curve))
    gains = [
        rate / rates[block, threads, False]
        for (block, threads, huge), rate in rates.items()
        if huge and block >= least
    ]
    return (
        f"huge pages make reads of {format_bytes(least)} or more {median(gains):.2f} times as fast "
        f"({min(gains):.2f} to {max(gains):.2f})"
    )


def kernel_table(profile: MachineProfile) -> RenderableType:
    """Bytes of weights per second by each product, beside the memory's bandwidth with as many threads.

    A product can pass the memory's rate where the machine is shared: each was measured at its own time.
    """
    rows = []
    for rate in profile.kernels:
        memory = profile.memory_read_bytes_s.get(rate.threads)
        share = "" if memory is None else f"{rate.bytes_s / memory:.0%}"
        rows.append([f"{rate.kernel} {rate.dtype}", str(rate.threads), format_rate(rate.bytes_s), share])
    heads = ["product", "threads", "weights read", "of the memory's rate"]
    return table(rows, heads, "Products of one row with expert weights")

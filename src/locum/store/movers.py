"""Choosing the Mover for an index."""

import logging
from typing import Literal

from locum.errors import UsageError
from locum.store.arena import Arena
from locum.store.checks import VERIFY, Verify
from locum.store.direct import DirectMover
from locum.store.files import DirectIORefusedError
from locum.store.index import ALIGN, ExpertIndex
from locum.store.layout import READERS, Layout
from locum.store.pagecache import PageCacheMover

_log = logging.getLogger("locum")

Kind = Literal["auto", "direct", "pagecache"]


def open_mover(
    index: ExpertIndex,
    arena: Arena,
    *,
    kind: Kind = "auto",
    threads: int = READERS,
    align: int = ALIGN,
    layout: Layout | None = None,
    verify: Verify = "first",
) -> DirectMover | PageCacheMover:
    """A running Mover over the files of `index` into `arena`; the caller closes it.

    `auto` takes direct I/O and falls back to the page cache where it is refused, saying so once in the log of
    `locum`. `verify` says when checksums are looked at, where the files have them. Give `layout` when it has
    been worked out already (then `align` is ignored). Raises `UsageError` for an unknown kind or for `direct`
    where it is refused, `CheckpointError` and `UnsupportedError` as `Layout` and the movers do.
    """
    if kind not in ("auto", "direct", "pagecache"):
        raise UsageError("no such mover", allowed="auto, direct or pagecache", got=repr(kind))
    if verify not in VERIFY:
        raise UsageError("no such way to verify", allowed=", ".join(VERIFY), got=repr(verify))
    layout = layout or Layout(index, align)
    if kind == "pagecache":
        return PageCacheMover(layout, arena, threads, verify)
    try:
        return DirectMover(layout, arena, threads, verify)
    except DirectIORefusedError as refusal:
        if kind == "direct":
            raise UsageError(
                "direct I/O is refused by the file system",
                where=refusal.path,
                got=refusal.reason,
                todo="Leave the choice to locum, or move the checkpoint to a local disk",
            ) from refusal
        _log.warning(
            "Direct I/O is refused for %s (%s): reading through the page cache instead, which is slower.",
            refusal.path,
            refusal.reason,
        )
    return PageCacheMover(layout, arena, threads, verify)

"""The slow tier: where experts' bytes lie, the arena they are read into, the Movers that read. No torch."""

from locum.store.arena import Arena
from locum.store.index import ALIGN, ExpertIndex, FileId, LayerIndex, Span, TensorView
from locum.store.layout import STAGING_BYTES, Layout
from locum.store.movers import open_mover
from locum.store.reader import ReadCounters

__all__ = [
    "ALIGN",
    "STAGING_BYTES",
    "Arena",
    "ExpertIndex",
    "FileId",
    "LayerIndex",
    "Layout",
    "ReadCounters",
    "Span",
    "TensorView",
    "open_mover",
]

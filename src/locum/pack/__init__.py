"""Packed folders (`locum.pack/2`), written: one aligned run per expert, in the precision asked for."""

from locum.pack.source import Source, folder_source, planned_source
from locum.pack.writer import Packing, PackOptions, PackResult, pack

__all__ = ["PackOptions", "PackResult", "Packing", "Source", "folder_source", "pack", "planned_source"]

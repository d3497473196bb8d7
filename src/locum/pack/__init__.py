"""Packed folders (`locum.pack/1`), written: one aligned run per expert, in the precision asked for."""

from locum.pack.source import Source, folder_source, virtual_source
from locum.pack.writer import PackOptions, PackResult, pack

__all__ = ["PackOptions", "PackResult", "Source", "folder_source", "pack", "virtual_source"]

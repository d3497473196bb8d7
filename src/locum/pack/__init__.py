"""Packed folders (`locum.pack/1`), written: one aligned run per expert, in the precision asked for."""

from locum.pack.writer import PackOptions, PackResult, pack

__all__ = ["PackOptions", "PackResult", "pack"]

"""The native library: plain C functions over addresses, their numpy twins, and the loader. No torch."""

from locum.native.library import Native, load

__all__ = ["Native", "load"]

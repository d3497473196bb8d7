"""Checksums of experts as they arrive, where the files have them: packed folders."""

from typing import Literal, get_args

import xxhash

from locum.errors import LoadError
from locum.store.layout import Layout

Verify = Literal["first", "always", "never"]
VERIFY: tuple[str, ...] = get_args(Verify)
"""When an expert is compared with its checksum: the first time it is read, every time, or not at all."""


class Checks:
    """Which experts of `layout` have still to be looked at. Used by several threads: a set of bytes, no lock,
    because looking twice does no harm.
    """

    def __init__(self, layout: Layout, verify: Verify) -> None:
        self._layout, self._always = layout, verify == "always"
        index = layout.index
        self._wanted = bytearray(index.stride * len(index.layers))
        for number, layer in enumerate(index.layers if verify != "never" else ()):
            for expert in range(len(layer.checksums)):
                self._wanted[index.key_of(number, expert)] = 1

    def wanted(self, key: int) -> bool:
        """Whether this expert has to be checked now that it is there."""
        return bool(self._wanted[key])

    def check(self, key: int, slot: memoryview) -> None:
        """Compare the expert that has landed in `slot` with its checksum. Raises `LoadError` naming it."""
        number, expert = self._layout.index.expert_of(key)
        layer = self._layout.index.layers[number]
        start = self._layout.image_start(key)
        found = xxhash.xxh3_64_hexdigest(slot[start : start + layer.image_bytes])
        if found != layer.checksums[expert]:
            span = layer.experts[expert][0]
            raise LoadError(
                f"expert {expert} of {layer.module} is damaged",
                where=f"{self._layout.index.files[span.file].path} at byte {span.offset}",
                allowed=f"checksum {layer.checksums[expert]}",
                got=found,
                todo="Copy the folder again, or pack the model again",
            )
        if not self._always:
            self._wanted[key] = 0

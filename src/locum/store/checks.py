"""Checksums of what is read, where the files have them: packed folders."""

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import xxhash
from numpy.typing import NDArray

from locum.errors import CheckpointError, LoadError
from locum.model.checkpoint import Checkpoint
from locum.model.header import TensorInfo
from locum.store.index import ExpertIndex
from locum.store.layout import Layout

Verify = Literal["first", "always", "never"]
VERIFY: tuple[str, ...] = get_args(Verify)
"""When an expert is compared with its checksum: the first time it is read, every time, or not at all. The
backbone is read once, when a model is loaded.
"""
_REMEDY = "Copy the folder again, or pack the model again"


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
        require_intact(self._layout.index, number, expert, slot[start : start + layer.image_bytes])
        if not self._always:
            self._wanted[key] = 0


def require_intact(index: ExpertIndex, number: int, expert: int, image: memoryview) -> None:
    """Compare an expert of layer `number` with its checksum, if it has one. Raises `LoadError` naming it."""
    layer = index.layers[number]
    if not layer.checksums:
        return
    found = xxhash.xxh3_64_hexdigest(image)
    if found != layer.checksums[expert]:
        span = layer.experts[expert][0]
        raise LoadError(
            f"expert {expert} of {layer.module} is damaged",
            where=f"{index.files[span.file].path} at byte {span.offset}",
            allowed=f"checksum {layer.checksums[expert]}",
            got=found,
            todo=_REMEDY,
        )


def backbone_checksum(dtype: str, shape: tuple[int, ...]) -> xxhash.xxh3_64:
    """The checksum of a backbone's tensor, to be fed with its bytes. It covers what the header says of it."""
    return xxhash.xxh3_64(f"{dtype} {list(shape)}".encode())


class BackboneChecks:
    """The checksums of the backbone of `checkpoint`; of none but a packed folder, and with `never`, none."""

    def __init__(self, checkpoint: Checkpoint, verify: Verify = "first") -> None:
        packed = checkpoint.packed
        checksums = packed.checksums if packed is not None and verify != "never" else {}
        self._folder = checkpoint.folder
        self._expected = {checkpoint.tensors[name]: (name, digest) for name, digest in checksums.items()}

    def heard(self, info: TensorInfo, runs: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """The runs of bytes that make up a stored tensor, handed on; after the last it is compared with its
        checksum. Raises `CheckpointError` naming the tensor.
        """
        name, expected = self._expected.get(info, ("", None))
        if expected is None:
            yield from runs
            return
        digest = backbone_checksum(info.dtype, info.shape)
        for run in runs:
            digest.update(run.data)
            yield run
        if digest.hexdigest() != expected:
            raise CheckpointError(
                f"tensor {name} is damaged",
                where=self._folder / info.file,
                allowed=f"checksum {expected}",
                got=digest.hexdigest(),
                todo=_REMEDY,
            )

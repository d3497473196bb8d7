"""Where the weights that are packed come from: a model folder, or a plan that was never written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from locum.backbone.lazy import TensorSource
from locum.model.checkpoint import Checkpoint
from locum.model.header import TensorInfo
from locum.store.files import Files
from locum.store.index import ExpertIndex
from locum.synth.plan import Plan
from locum.synth.virtual import VirtualFiles
from locum.synth.writer import write_small


class Reader(Protocol):
    """Reads runs of numbered files, as `store.files.Files` does."""

    def read(self, number: int, buffer: memoryview, offset: int, need: int) -> tuple[int, int]:
        """Fill `buffer` from `offset` of file `number`."""

    def forget(self, number: int, offset: int, length: int) -> None:
        """This run will not be read again."""

    def close(self) -> None:
        """No more reads."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint and its weights. `tensors`: None for those in its folder."""

    checkpoint: Checkpoint
    open: Callable[[ExpertIndex], Reader]
    tensors: TensorSource | None = None
    name: str = ""
    """What the packed folder says it was made from."""


def folder_source(model: Path) -> Source:
    """A model folder. Raises the `ModelError`s of `Checkpoint.open`."""
    checkpoint = Checkpoint.open(model)
    name = checkpoint.folder.resolve().name
    return Source(checkpoint, lambda index: Files(index.files, direct=False), name=name)


@contextmanager
def planned_source(plan: Plan, seed: int, name: str) -> Iterator[Source]:
    """A checkpoint that is planned and never written; `name` is what the packed folder calls it.

    Raises `CheckpointError` for a config without a vocabulary.
    """
    files = VirtualFiles(plan, seed)
    with TemporaryDirectory(prefix="locum-") as small:  # only config and tokenizer
        folder = Path(small)
        write_small(folder, plan)
        yield Source(files.checkpoint(folder), lambda index: files, VirtualTensors(files), name)


class VirtualTensors:
    """The tensors of a plan."""

    def __init__(self, files: VirtualFiles) -> None:
        self._files = files

    def octets(self, info: TensorInfo) -> NDArray[np.uint8]:
        """Made, not read."""
        data = np.empty(info.length, np.uint8)
        self._files.read(self._files.names.index(info.file), memoryview(data.data), info.offset, info.length)
        return data

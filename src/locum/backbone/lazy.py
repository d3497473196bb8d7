"""A backbone that is not stored as transformers loads it: tensors made from their pieces when asked for.

transformers takes a state dict of anything that gives a tensor for `[...]`, and asks only for what the model
has: experts that were taken off are never read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locum.errors import CheckpointError
from locum.kernels.forms import maker
from locum.kernels.stored import making, torch_dtype
from locum.model.checkpoint import Checkpoint
from locum.model.header import TORCH_NAMES, TensorInfo
from locum.model.schemes import Stored, stored_tensors
from locum.store.checks import BackboneChecks, Verify
from locum.store.index import RAW

_ROWS = 16 << 20  # numbers that are made at a time where rows are made apart


class TensorSource(Protocol):
    """Where stored tensors come from."""

    def octets(self, info: TensorInfo) -> NDArray[np.uint8]:
        """The bytes of a stored tensor, or of a run of one. Memory of the caller's own."""


class FolderTensors:
    """The weight files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def octets(self, info: TensorInfo) -> NDArray[np.uint8]:
        """Read from the file. Raises `CheckpointError` when it has become shorter, `OSError`."""
        path = self._folder / info.file
        octets = np.fromfile(path, np.uint8, count=info.length, offset=info.offset)
        if len(octets) != info.length:
            raise CheckpointError(
                "a weight file is truncated", where=path, allowed=f"{info.offset + info.length} bytes"
            )
        return octets


class LazyTensor:
    """A tensor of the model that exists once it is indexed with `[...]`.

    `dtype`: what the model is loaded in; `checks`: what its bytes are compared with. A table of blocks is
    made and cast a few rows at a time: whole, it would take several times its final memory.
    """

    def __init__(
        self, stored: Stored, source: TensorSource, dtype: torch.dtype, checks: BackboneChecks
    ) -> None:
        self._stored, self._source, self._wanted, self._checks = stored, source, dtype, checks

    @property
    def shape(self) -> tuple[int, ...]:
        """Once made."""
        return self._stored.shape

    @property
    def made(self) -> bool:
        """Whether it is more than read."""
        return self._stored.form != RAW

    @property
    def dtype(self) -> torch.dtype:
        """What transformers goes by where the config names no dtype."""
        return torch.bfloat16 if self.made else torch_dtype(TORCH_NAMES[self._stored.pieces[0][1].dtype])

    def is_floating_point(self) -> bool:
        """As a tensor's."""
        return self.dtype.is_floating_point

    def __getitem__(self, everything: Any) -> Tensor:
        assert everything is Ellipsis, "transformers asks for whole tensors"
        stored, make = self._stored, maker(self._stored.form)
        if not _in_rows(stored):
            pieces = {role: self._read(info) for role, info in stored.pieces}
            with making(f"tensor {stored.name!r}"):
                return make(pieces, stored.shape)
        ((role, info),) = stored.pieces
        rows, columns = stored.shape
        made = torch.empty(stored.shape, dtype=self._wanted)
        step = max(1, _ROWS // columns)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            length = info.length // rows
            some = info._replace(
                shape=(count, *info.shape[1:]), offset=info.offset + first * length, length=count * length
            )
            made[first : first + count] = make({role: self._read(some)}, (count, columns))
        return made

    def runs(self, length: int) -> Iterator[NDArray[np.uint8]]:
        """The bytes of a tensor that is only read, in runs of at most `length`."""
        assert not self.made, "what is made has no bytes in the file"
        info = self._stored.pieces[0][1]
        yield from self._checks.heard(
            info,
            (
                self._source.octets(
                    info._replace(offset=info.offset + start, length=min(length, info.length - start))
                )
                for start in range(0, info.length, length)
            ),
        )

    def _read(self, info: TensorInfo) -> Tensor:
        dtype = torch_dtype(TORCH_NAMES[info.dtype])
        (octets,) = self._checks.heard(info, [self._source.octets(info)])
        return torch.from_numpy(octets).view(dtype).view(info.shape)


def _in_rows(stored: Stored) -> bool:
    """Whether each row is made from a row."""
    return stored.form.startswith("gguf-") and "+" not in stored.form and len(stored.shape) == 2


def lazy_state(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    source: TensorSource | None = None,
    verify: Verify = "first",
) -> dict[str, LazyTensor]:
    """Every tensor of a checkpoint, by the name it would have without quantisation.

    `source` gives the stored ones, if not the files in the checkpoint's folder; `dtype` as for `LazyTensor`.
    """
    files, checks = source or FolderTensors(checkpoint.folder), BackboneChecks(checkpoint, verify)
    return {
        name: LazyTensor(stored, files, dtype, checks) for name, stored in stored_tensors(checkpoint).items()
    }

"""A backbone that is not stored as transformers loads it: tensors made from their pieces when asked for.

transformers takes a state dict of anything that gives a tensor for `[...]`, and asks only for what the model
has: experts that were taken off are never read.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locum.errors import CheckpointError
from locum.kernels.forms import FILLING_BYTES, maker
from locum.kernels.stored import making, torch_dtype
from locum.model.checkpoint import Checkpoint
from locum.model.header import TORCH_NAMES, TensorInfo
from locum.model.schemes import Stored, stored_tensors
from locum.store.checks import BackboneChecks, Verify
from locum.store.index import RAW

_RUN_BYTES = 16 << 20
"""Of a stored tensor that are read at a time where not all of it is needed at once."""
_FLOAT_BYTES = 4
_IN_ROWS = ("gguf", "int8", "int4", "mxfp4")
"""Methods that make each row of rows alone."""


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
    """A tensor of the model that exists once it is indexed with `[...]`, in memory of torch's own.

    `dtype`: what the model is loaded in, and what is made here; `checks`: what its bytes are compared with.
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
        if not self.made:
            return self._copied()
        made, make, first = torch.empty(self.shape, dtype=self._wanted), maker(self._stored.form), 0
        with making(f"tensor {self._stored.name!r}"):
            for pieces in self._blocks():
                make.fill(made[first : first + self._step], pieces)
                first += self._step
        return made

    def loading_bytes(self) -> int:
        """The most memory that `[...]` and the cast to the model's dtype take beside what they give."""
        stored = sum(info.length for _, info in self._stored.pieces)
        if not self.made:
            return stored if self.is_floating_point() and self.dtype != self._wanted else 0
        matrix = len(self.shape) == 2 and not maker(self._stored.form).placed
        numbers = 0 if matrix else _FLOAT_BYTES * math.prod(self.shape)
        return stored * self._step // self.shape[0] + numbers + FILLING_BYTES

    @property
    def _step(self) -> int:
        """Rows that are read and made at a time."""
        rows, stored = self.shape[0], sum(info.length for _, info in self._stored.pieces)
        method = self._stored.form.partition("-")[0]
        apart = method in _IN_ROWS and "+" not in self._stored.form and len(self.shape) == 2
        return min(rows, max(1, rows * _RUN_BYTES // stored)) if apart else rows

    def _blocks(self) -> Iterator[dict[str, Tensor]]:
        """What the first `_step` rows are made of, by role, then the next ones, and so on."""
        rows, step = self.shape[0], self._step
        runs = [
            self._heard(info, info.length if step == rows else info.length // rows * step)
            for _, info in self._stored.pieces
        ]
        for block in zip(*runs, strict=True):
            yield {
                role: _viewed(octets, info, whole=step == rows)
                for (role, info), octets in zip(self._stored.pieces, block, strict=True)
            }

    def _copied(self) -> Tensor:
        """The stored tensor. numpy's memory would not do: its alignment is another than torch's."""
        made = torch.empty(self.shape, dtype=self.dtype)
        octets, at = made.view(-1).view(torch.uint8), 0
        for run in self.runs(_RUN_BYTES):
            octets[at : at + len(run)] = torch.from_numpy(run)
            at += len(run)
        return made

    def runs(self, length: int) -> Iterator[NDArray[np.uint8]]:
        """The bytes of a tensor that is only read, in runs of at most `length`."""
        assert not self.made, "what is made has no bytes in the file"
        return self._heard(self._stored.pieces[0][1], length)

    def _heard(self, info: TensorInfo, length: int) -> Iterator[NDArray[np.uint8]]:
        cuts = (
            info._replace(offset=info.offset + start, length=min(length, info.length - start))
            for start in range(0, info.length, max(1, length))
        )
        return self._checks.heard(info, map(self._source.octets, cuts))


def _viewed(octets: NDArray[np.uint8], info: TensorInfo, *, whole: bool) -> Tensor:
    """The stored tensor, or some rows of it."""
    tensor = torch.from_numpy(octets).view(torch_dtype(TORCH_NAMES[info.dtype]))
    return tensor.view(info.shape if whole else (-1, *info.shape[1:]))


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

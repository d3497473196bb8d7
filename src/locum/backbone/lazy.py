"""A backbone that is not stored as transformers loads it: tensors made from their pieces when asked for.

transformers takes a state dict of anything that gives a tensor for `[...]`, and asks only for what the model
has: experts that were taken off are never read.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from locum.errors import CheckpointError
from locum.kernels.forms import maker
from locum.model.checkpoint import Checkpoint
from locum.model.header import TensorInfo
from locum.model.schemes import Stored, stored_tensors
from locum.store.index import RAW

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}
_ROWS = 16 << 20  # numbers that are made at a time where rows are made apart


class LazyTensor:
    """A tensor of the model that exists once it is indexed with `[...]`.

    `dtype`: what the model is loaded in. A table of blocks is made and cast a few rows at a time: whole, it
    would take several times its final memory.
    """

    def __init__(self, stored: Stored, folder: Path, dtype: torch.dtype) -> None:
        self._stored, self._folder, self._wanted = stored, folder, dtype

    @property
    def dtype(self) -> torch.dtype:
        """What transformers goes by where the config names no dtype."""
        info = self._stored.pieces[0][1]
        return _DTYPES[info.dtype] if self._stored.form == RAW else torch.bfloat16

    def is_floating_point(self) -> bool:
        """As a tensor's."""
        return self.dtype.is_floating_point

    def __getitem__(self, everything: Any) -> Tensor:
        assert everything is Ellipsis, "transformers asks for whole tensors"
        stored, make = self._stored, maker(self._stored.form)
        if not _in_rows(stored):
            pieces = {role: self._read(info) for role, info in stored.pieces}
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

    def _read(self, info: TensorInfo) -> Tensor:
        path = self._folder / info.file
        octets = np.fromfile(path, np.uint8, count=info.length, offset=info.offset)
        if len(octets) != info.length:
            raise CheckpointError(
                "a weight file is truncated", where=path, allowed=f"{info.offset + info.length} bytes"
            )
        return torch.from_numpy(octets).view(_DTYPES[info.dtype]).view(info.shape)


def _in_rows(stored: Stored) -> bool:
    """Whether each row is made from a row."""
    return stored.form.startswith("gguf-") and "+" not in stored.form and len(stored.shape) == 2


def lazy_state(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Every tensor of a quantised checkpoint, by the name it would have without quantisation."""
    return {
        name: LazyTensor(stored, checkpoint.folder, dtype)
        for name, stored in stored_tensors(checkpoint).items()
    }

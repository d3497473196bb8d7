"""A backbone that is not stored as transformers loads it: tensors made from their pieces when asked for.

transformers takes a state dict of anything that gives a tensor for `[...]`, and asks only for what the model
has: experts that were taken off are never read.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from locum.kernels.forms import maker
from locum.kernels.stored import torch_dtype
from locum.model.checkpoint import Checkpoint
from locum.model.header import TORCH_NAMES
from locum.model.schemes import Stored, stored_tensors
from locum.store.index import RAW


class LazyTensor:
    """A tensor of the model that exists once it is indexed with `[...]`."""

    def __init__(self, stored: Stored, names: Mapping[str, str], files: "TensorSource") -> None:
        self._stored, self._names, self._files = stored, names, files

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
        pieces = {
            role: self._files.tensor(info.file, self._names[role]) for role, info in self._stored.pieces
        }
        return maker(self._stored.form)(pieces, self._stored.shape)


class TensorSource(Protocol):
    """Where stored tensors come from."""

    def tensor(self, file: str, name: str) -> Tensor:
        """The stored tensor `name` of `file`."""


class _Files:
    """The weight files, each opened once."""

    def __init__(self, folder: Path) -> None:
        self._open = lru_cache(None)(lambda file: safe_open(folder / file, framework="pt"))

    def tensor(self, file: str, name: str) -> Tensor:
        found = self._open(file).get_tensor(name)
        assert isinstance(found, torch.Tensor)
        return found


def lazy_state(checkpoint: Checkpoint, source: TensorSource | None = None) -> dict[str, LazyTensor]:
    """Every tensor of a checkpoint, by the name it would have without quantisation.

    `source` gives the stored ones, if not the files in the checkpoint's folder.
    """
    files = source or _Files(checkpoint.folder)
    names = {id(info): name for name, info in checkpoint.tensors.items()}

    def lazy(stored: Stored) -> LazyTensor:
        return LazyTensor(stored, {role: names[id(info)] for role, info in stored.pieces}, files)

    return {name: lazy(stored) for name, stored in stored_tensors(checkpoint).items()}

"""A planned checkpoint that is never written: its files can be read as if they were there. No torch.

What wants the weights in another form (a packed folder, a GGUF) reads them here, and they are the bytes that
`writer.write_plan` would have written, because the stream of random numbers is remembered at each tensor.
"""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.model.checkpoint import Checkpoint, ShardFile
from locum.model.header import TensorInfo
from locum.synth.names import TensorSpec
from locum.synth.noise import bytes_of
from locum.synth.plan import Plan
from locum.synth.writer import SHARD_BYTES, shard_name, shards_of


class VirtualFiles:
    """The weight files of a plan. Takes the place of `store.files.Files` where no direct I/O is asked for."""

    def __init__(self, plan: Plan, seed: int, shard_bytes: int = SHARD_BYTES) -> None:
        self._plan, self._noise = plan, plan.noise(seed)
        shards = shards_of(plan.specs, shard_bytes, plan.dtype)
        self.names = [shard_name(number, len(shards)) for number in range(len(shards))]
        self.tensors: dict[str, TensorInfo] = {}
        self._specs: dict[str, TensorSpec] = {}
        self._states: dict[str, Any] = {}
        self._order: list[list[str]] = []
        self._starts: list[list[int]] = []
        self.sizes: list[int] = []
        for name, shard in zip(self.names, shards, strict=True):
            at = len(shard.header(plan.dtype))
            self._order.append([tensor.name for tensor in shard.tensors])
            starts = []
            for tensor in shard.tensors:
                length = bytes_of(tensor, plan.dtype)
                form = plan.dtype.of(tensor)
                self.tensors[tensor.name] = TensorInfo(name, form.code, tensor.shape, at, length)
                self._specs[tensor.name] = tensor
                self._states[tensor.name] = self._noise.mark(tensor)
                starts.append(at)
                at += length
            self._starts.append(starts)
            self.sizes.append(at)

    def checkpoint(self, folder: Path) -> Checkpoint:
        """The checkpoint that these files make up with the small files (config, tokenizer) in `folder`."""
        small = Checkpoint.configured(folder)
        files = tuple(ShardFile(name, size, 0) for name, size in zip(self.names, self.sizes, strict=True))
        return small.with_weights(files, self.tensors)

    def pieces(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """The bytes of a tensor, piece by piece, for reading only."""
        return self._noise.pieces_from(self._states[name], self._specs[name])

    def read(self, number: int, buffer: memoryview, offset: int, need: int) -> tuple[int, int]:
        """Fill `buffer` from byte `offset` of file `number`, which must lie inside the tensors there.

        Returns (bytes, reads) as `store.files.Files` does.
        """
        assert len(buffer) == need, "exactly what is asked for"
        done = 0
        while done < need:
            place = bisect_right(self._starts[number], offset + done) - 1
            name = self._order[number][place]
            begin = offset + done - self.tensors[name].offset
            done += self._copy(name, begin, buffer[done:])
        return need, 1

    def _copy(self, name: str, begin: int, buffer: memoryview) -> int:
        """Bytes of a tensor from `begin` on, as many as there are and the buffer takes; how many."""
        count = min(len(buffer), self.tensors[name].length - begin)
        assert count > 0, "outside the tensors"
        at = 0
        for piece in self.pieces(name):
            low, high = max(begin, at), min(begin + count, at + len(piece))
            if low < high:
                buffer[low - begin : high - begin] = piece[low - at : high - at].data
            at += len(piece)
            if at >= begin + count:
                break
        return count

    def forget(self, number: int, offset: int, length: int) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""

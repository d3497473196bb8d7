"""A planned GGUF, written: the checkpoint's stream of random numbers, each tensor put where it belongs.

No torch. The stream is drawn once, in the order in which `synth.writer` draws it, and so the weights are the
same to the bit.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from locum.files import new_folder, settle
from locum.synth.gguf.blocks import encoded
from locum.synth.gguf.plan import FILE, GgufPlan, Part
from locum.synth.names import TensorSpec
from locum.synth.noise import Dtype, Noise
from locum.synth.writer import SHARD_BYTES, Progress, Written, shards_of


def write_gguf(
    planned: GgufPlan,
    path: str | Path,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Written:
    """Write `model.gguf` into a new folder at `path`, which must not exist.

    `shard_bytes`: the shards whose order of tensors is the order of the random numbers, as in `write_plan`;
    there is one file here all the same. `progress(done, total)` is called in bytes of the file. `path` is
    whole or absent, and `planned.bytes` are needed, no more at any time. Memory: the pools of random numbers,
    and those few matrices whole whose rows llama.cpp orders in another way. Raises `UsageError` for a folder
    that exists, `LocumError` when the disk is too full.
    """
    started, target, plan, done = time.monotonic(), Path(path), planned.plan, 0
    with new_folder(target, planned.bytes) as folder, (folder / FILE).open("wb") as out:
        for count in _write(out, planned, plan.noise(seed), shard_bytes):
            done += count
            if progress is not None:
                progress(done, planned.bytes)
        settle(out)
    return Written(
        path=target,
        bytes=planned.bytes,
        expert_bytes=planned.expert_bytes,
        parameters=plan.parameters,
        shards=1,
        seconds=time.monotonic() - started,
    )


def _write(out: BinaryIO, planned: GgufPlan, noise: Noise, shard_bytes: int) -> Iterator[int]:
    """The whole file; yields the number of bytes, piece by piece."""
    yield out.write(planned.header)
    for shard in shards_of(planned.plan.specs, shard_bytes, planned.plan.dtype):
        for spec in shard.tensors:
            yield from _write_tensor(out, planned, spec, noise.pieces(spec))
    out.truncate(planned.bytes)


def _write_tensor(
    out: BinaryIO, planned: GgufPlan, spec: TensorSpec, pieces: Iterable[NDArray[np.uint8]]
) -> Iterator[int]:
    """Write a tensor of the checkpoint where it belongs; yields the number of bytes, piece by piece."""
    parts, dtype, start = planned.parts[spec.name], planned.plan.dtype, len(planned.header)
    if any(part.change for part in parts):
        pieces = [np.concatenate(list(pieces))]
    assert len(parts) == 1 or isinstance(pieces, list), "pieces can be had once"
    for part in parts:
        out.seek(start + part.stored.offset + part.begin)
        for piece in pieces:
            written = encoded(_changed(piece, spec, part, dtype), dtype, part.stored.kind)
            out.write(written.data)
            yield written.nbytes


def _changed(piece: NDArray[np.uint8], spec: TensorSpec, part: Part, dtype: Dtype) -> NDArray[np.uint8]:
    if part.change is None:
        return piece
    rows: NDArray[Any] = piece.view(f"<u{dtype.size}").reshape(spec.shape)
    return np.ascontiguousarray(part.change(rows)).reshape(-1).view(np.uint8)

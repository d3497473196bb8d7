"""Checkpoints of any size in constant memory, laid out as Hugging Face's own are. No torch.

Shard by shard, what Hugging Face's libraries leave on disk for a family that stores expert by expert,
header and all: whatever reads it meets the real thing's names, sizes and unaligned offsets.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.errors import UsageError
from locum.files import new_folder, settle
from locum.synth.given import number_of
from locum.synth.names import Config, TensorSpec
from locum.synth.noise import Dtype, Noise, bytes_of
from locum.synth.plan import Plan, plan_checkpoint
from locum.synth.tokenizer import Specials, write_tokenizer
from locum.units import MIB

SHARD_BYTES = 5 * 10**9
"""Largest shard by default, as on the hub."""
_SMALL_FILES = 32 * MIB
"""Room for config, tokenizer and index, generously."""
_CONTEXT = 4096
"""Of a config that does not say."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Written:
    """A finished checkpoint: `bytes` of weights, of which `expert_bytes` belong to routed experts."""

    path: Path
    bytes: int
    expert_bytes: int
    parameters: int
    shards: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Shard:
    """The tensors of one weight file, in their order there."""

    tensors: tuple[TensorSpec, ...]

    def header(self, dtype: Dtype) -> bytes:
        """The safetensors header: length, JSON in file order, spaces up to a multiple of 8 and no further."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor in self.tensors:
            end = at + bytes_of(tensor, dtype)
            entries[tensor.name] = {
                "dtype": dtype.of(tensor).code,
                "shape": list(tensor.shape),
                "data_offsets": [at, end],
            }
            at = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def shards_of(specs: Iterable[TensorSpec], limit: int, dtype: Dtype) -> list[Shard]:
    """Fill shards in module order up to `limit` bytes; within each, sort by name as safetensors does."""
    shards: list[Shard] = []
    current: list[TensorSpec] = []
    used = 0
    for spec in specs:
        size = bytes_of(spec, dtype)
        if current and used + size > limit:
            shards.append(Shard(tuple(sorted(current, key=lambda t: t.name))))
            current, used = [], 0
        current.append(spec)
        used += size
    shards.append(Shard(tuple(sorted(current, key=lambda t: t.name))))
    return shards


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=False) + "\n", encoding="utf-8")


def _write_configs(folder: Path, config: Config, specials: Specials) -> None:
    ids = {"bos_token_id": specials.bos, "eos_token_id": specials.eos, "pad_token_id": specials.pad}
    _write_json(folder / "config.json", {**config, **ids})
    _write_json(folder / "generation_config.json", {**ids, "eos_token_id": [specials.eos, specials.bos]})


def write_small(folder: Path, plan: Plan) -> None:
    """Everything but the weights: config, generation config, tokenizer.

    Raises `CheckpointError` for a config without a vocabulary.
    """
    words = number_of(plan.config, "vocab_size")
    context = number_of(plan.config, "max_position_embeddings", _CONTEXT)
    _write_configs(folder, plan.config, write_tokenizer(folder, words, context))


def _write_index(folder: Path, shards: list[Shard], total: int, parameters: int) -> None:
    places = {t.name: shard_name(n, len(shards)) for n, shard in enumerate(shards) for t in shard.tensors}
    _write_json(
        folder / "model.safetensors.index.json",
        {
            "metadata": {"total_parameters": parameters, "total_size": total},
            "weight_map": dict(sorted(places.items())),
        },
    )


def shard_name(number: int, count: int) -> str:
    """The file of shard `number`, as on the hub."""
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"


def _write_shard(path: Path, shard: Shard, noise: Noise, dtype: Dtype, report: Callable[[int], None]) -> None:
    with path.open("wb") as out:
        out.write(shard.header(dtype))
        for tensor in shard.tensors:
            for piece in noise.pieces(tensor):
                out.write(piece.data)
                report(piece.nbytes)
        settle(out)


def write_checkpoint(
    config: Config,
    path: str | Path,
    *,
    layers: int | None = None,
    seed: int = 0,
    dtype: str = "bf16",
    locality: float | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Written:
    """Plan a checkpoint of this config and write it: see `plan_checkpoint` and `write_plan`."""
    plan = plan_checkpoint(config, layers=layers, dtype=dtype, locality=locality)
    return write_plan(plan, path, seed=seed, shard_bytes=shard_bytes, progress=progress)


def write_plan(
    plan: Plan,
    path: str | Path,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Written:
    """Write a planned checkpoint and a tokenizer at `path`, which must not exist.

    `progress(done, total)` is called in bytes. Everything is written beside `path` and renamed at the end, so
    `path` is whole or absent. The writer takes less than 200 MB of memory whatever the size. Raises
    `UsageError`, `CheckpointError` for a config without a vocabulary, and `LocumError` when the disk is too
    full.
    """
    started, target = time.monotonic(), Path(path)
    if shard_bytes < 1:
        raise UsageError("shard_bytes is too small", allowed="at least 1", got=shard_bytes)
    shards, total = shards_of(plan.specs, shard_bytes, plan.dtype), plan.bytes
    headers = sum(len(shard.header(plan.dtype)) for shard in shards)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    with new_folder(target, total + headers + _SMALL_FILES) as folder:
        write_small(folder, plan)
        noise = plan.noise(seed)
        for number, shard in enumerate(shards):
            _write_shard(folder / shard_name(number, len(shards)), shard, noise, plan.dtype, report)
        if len(shards) > 1:
            _write_index(folder, shards, total, plan.parameters)
    return Written(
        path=target,
        bytes=total,
        expert_bytes=plan.expert_bytes,
        parameters=plan.parameters,
        shards=len(shards),
        seconds=time.monotonic() - started,
    )

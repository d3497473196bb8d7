"""Which tensors a GGUF of a planned checkpoint holds, and where each of the checkpoint's goes. No torch.

The names are `model.gguf.names` turned round, the changes to weights those that `model.gguf.architectures`
says are to be undone; and before anything is written the metadata are read back by our reader, and what it
makes of them is compared with the config.

Axes: E experts, O rows, I columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.errors import UnsupportedError, UsageError
from locum.model.gguf.architectures import ARCHITECTURES as READ
from locum.model.gguf.architectures import config_of
from locum.model.gguf.metadata import Metadata
from locum.model.gguf.names import renamed
from locum.model.header import TensorInfo
from locum.synth.gguf.agree import refuse_unsaid
from locum.synth.gguf.blocks import BLOCK
from locum.synth.gguf.fields import ARCHITECTURES, fields_of
from locum.synth.gguf.header import Stored, aligned, header, length_of
from locum.synth.gguf.names import Place, place_of
from locum.synth.names import Config, TensorSpec
from locum.synth.plan import Plan

FILE = "model.gguf"
BITS = {"bf16": "BF16", "fp16": "F16", "fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}
"""ggml's type of matrices by what `--bits` calls it."""
_ROUTER = "ffn_gate_inp.weight"
_WHY_NOT = {
    "gpt_oss": "its experts have biases, and keep gate and up woven together where GGUF files hold them "
    "apart, and locum does not read such files yet"
}

Rows = NDArray[Any]
Change = Callable[[Rows], Rows]
"""From a checkpoint's tensor [O, I], as bits, to the file's."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a tensor of the checkpoint goes: to byte `begin` of a tensor of the file, perhaps changed."""

    stored: Stored
    begin: int = 0
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class GgufPlan:
    """A GGUF before it is written: what comes before the data, the tensors, the way of each weight there."""

    plan: Plan
    header: bytes
    tensors: tuple[Stored, ...]
    parts: Mapping[str, tuple[Part, ...]]
    """By the checkpoint's name of the tensor."""

    @property
    def bytes(self) -> int:
        """Of the whole file."""
        last = self.tensors[-1]
        return len(self.header) + aligned(last.offset + last.length)

    @property
    def expert_bytes(self) -> int:
        """Of the routed experts."""
        return sum(tensor.length for tensor in self.tensors if "_exps." in tensor.name)


def plan_gguf(plan: Plan, bits: str | None = None, meaning: Config | None = None) -> GgufPlan:
    """Settle the GGUF file of a planned checkpoint.

    `bits`: precision of the matrices, one of `BITS`, the checkpoint's own when left out; vectors and routers
    are float32, and where a row is no whole number of blocks a matrix stays in the checkpoint's precision.
    `meaning`: the config as transformers understands it, with every default, where the checkpoint's leaves
    some out. Raises `UsageError` for unknown bits, `UnsupportedError` for a family, a tensor or a setting
    that such a file cannot hold, `CheckpointError` for a config that lacks a number.
    """
    if bits is not None and bits not in BITS:
        raise UsageError("unknown precision", where="bits", allowed=", ".join(BITS), got=repr(bits))
    config = plan.config if meaning is None else meaning
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        why = _WHY_NOT.get(str(family), "locum does not read GGUF files of it")
        raise UnsupportedError(
            f"this family cannot be written as GGUF: {why}",
            allowed=", ".join(sorted(ARCHITECTURES)),
            got=repr(family),
            todo="Leave --gguf out",
        )
    kind = BITS[bits] if bits else plan.dtype.code
    architecture = ARCHITECTURES[family]
    places = {spec.name: place_of(spec.name, READ[architecture].block, architecture) for spec in plan.specs}
    tensors = _tensors(plan, places, kind, config)
    values = fields_of(config, kind)
    placements = _read_back(values, tensors, config)
    stored = {tensor.name: tensor for tensor in tensors}
    parts = {spec.name: _parts(spec, places[spec.name], stored, placements) for spec in plan.specs}
    return GgufPlan(plan, header(values, tensors), tensors, parts)


def _tensors(plan: Plan, places: Mapping[str, Place], kind: str, config: Config) -> tuple[Stored, ...]:
    """The tensors of the file, in the order of the model's modules, one after the other."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in plan.specs:
        place = places[spec.name]
        if spec.content is not None and spec.content.dtype.kind != "f":
            raise UnsupportedError("a tensor of whole numbers has no place in a GGUF", where=spec.name)
        if place.halves:
            shapes |= dict(zip(place.names, _half_shapes(spec, config), strict=True))
        elif place.expert is None:
            shapes[place.name] = spec.shape[1:] if place.one_row else spec.shape
        else:
            shapes[place.name] = (max(place.expert + 1, shapes.get(place.name, (0,))[0]), *spec.shape)
    found, at = [], 0
    for name, shape in shapes.items():
        own = kind if shape[-1] % BLOCK == 0 or not kind.startswith("Q") else plan.dtype.code
        own = "F32" if len(shape) < 2 or name.endswith(_ROUTER) else own
        found.append(Stored(name, own, shape, at))
        at = aligned(at + found[-1].length)
    return tuple(found)


def _half_shapes(spec: TensorSpec, config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the keys' half, which is turned on its side, and of the values'."""
    heads, keys, latent = config["num_attention_heads"], config["qk_nope_head_dim"], spec.shape[1]
    return (heads, latent, keys), (heads, spec.shape[0] // heads - keys, latent)


def _read_back(values: Mapping[str, Any], tensors: Sequence[Stored], config: Config) -> Mapping[str, str]:
    """What our reader would make of the file, held against the config; the placements it would undo."""
    infos = {t.name: TensorInfo(FILE, t.kind, t.shape, t.offset, t.length) for t in tensors}
    read = Metadata(values["general.architecture"], values, infos, Path(FILE))
    found, architecture = config_of(read)
    refuse_unsaid(found, config)
    renamed(infos, architecture.block, FILE)
    placements: Mapping[str, str] = found["quantization_config"]["placements"]
    return placements


def _parts(
    spec: TensorSpec, place: Place, stored: Mapping[str, Stored], placements: Mapping[str, str]
) -> tuple[Part, ...]:
    targets = [stored[name] for name in place.names]
    if place.halves:
        return Part(targets[0], 0, _keys(targets)), Part(targets[1], 0, _values(targets))
    (target,) = targets
    if place.expert is not None:
        return (Part(target, place.expert * length_of(target.kind, spec.shape)),)
    placement = next((way for end, way in placements.items() if spec.name.endswith(end)), None)
    if placement is None:
        return (Part(target),)
    name, _, heads = placement.partition("-")
    assert name == "interleaved", f"no way back from the placement {placement}"
    return (Part(target, 0, _by_turns(int(heads))),)


def _by_turns(heads: int) -> Change:
    """Row r of each head's first half, then row r of its second, and so on: llama.cpp turns neighbours."""

    def change(rows: Rows) -> Rows:
        return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)

    return change


def _per_head(rows: Rows, targets: Sequence[Stored]) -> Rows:
    """`kv_b_proj` [heads, keys + values, latent]."""
    return rows.reshape(targets[0].shape[0], -1, rows.shape[1])


def _keys(targets: Sequence[Stored]) -> Change:
    count = targets[0].shape[2]
    return lambda rows: np.ascontiguousarray(_per_head(rows, targets)[:, :count].swapaxes(1, 2))


def _values(targets: Sequence[Stored]) -> Change:
    count = targets[0].shape[2]
    return lambda rows: np.ascontiguousarray(_per_head(rows, targets)[:, count:])

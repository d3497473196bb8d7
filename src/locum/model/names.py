"""Finding the routed experts of a checkpoint by the names of its tensors, whatever the family.

Two layouts exist on the hub: one tensor per matrix and expert (`layers.3.mlp.experts.17.up_proj.weight`), or
one tensor per matrix that holds all the experts of a layer along its first axis
(`layers.3.mlp.experts.gate_up_proj`).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from locum.errors import CheckpointError
from locum.model.header import TensorInfo
from locum.model.packed import Packed

PER_EXPERT, FUSED, PACKED = "per-expert", "fused", "packed"

# `shared_experts` is another component than `experts` and so matches neither.
_PER_EXPERT = re.compile(
    r"((?:.*\.)?experts(?:\.local_experts|\.mlp)?)\.(?:expert_)?(0|[1-9][0-9]{0,5})\.(.+)", re.DOTALL
)
_FUSED = re.compile(r"((?:.*\.)?experts(?:\.mlp)?)\.([^0-9].*)", re.DOTALL)
_GRANITE = re.compile(r"((?:.*\.)?block_sparse_moe)\.((?:input|output)_linear\.weight)")
_STEP = re.compile(r"((?:.*\.)?moe)\.((?:gate|up|down)_proj\.weight)")
_LAYER = re.compile(r"(?:(.*?)\.)??(?:layers|blocks|block|h)\.(0|[1-9][0-9]{0,5})\.")
_EXTRA = re.compile(r"(?:^|\.)(?:mtp|mtp_layers|mtp_block|nextn)\.")
# What only images and sound go through, whatever the family calls it.
_TOWERS = re.compile(
    r"(?:^|\.)(?:visual|vision\w*|audio\w*|embed_(?:vision|audio)|sam_model|qwen2_model|resampler\w*"
    r"|\w*projector\w*|patch_merge\w*|gate\.weight_1)(?:\.|$)"
)
# Buffers that transformers computes itself and never loads.
_COMPUTED = re.compile(r"(?:^|\.)(?:rotary_emb\.(?:inv_freq|cos_cached|sin_cached)|masked_bias)$")


@dataclass(frozen=True, slots=True)
class Piece:
    """One stored tensor of one expert: its name after the expert's, dtype, shape, length in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    length: int


@dataclass(frozen=True, slots=True)
class ExpertGroup:
    """The routed experts of one layer as they are stored; all of them consist of the same `pieces`."""

    module: str
    """The name before the expert's number, such as `model.layers.3.mlp.experts`."""
    stack: str
    """The name before `layers`: `model`, or `thinker.model`."""
    layer: int
    layout: str
    experts: int
    pieces: tuple[Piece, ...]
    tensors: tuple[str, ...]
    """Every stored tensor of the group."""
    params: int | None = None
    """Parameters of one expert, where the pieces do not tell."""

    @property
    def expert_bytes(self) -> int:
        """Stored bytes of one expert."""
        return sum(piece.length for piece in self.pieces)


def layer_of(name: str) -> tuple[str, int] | None:
    """(stack, layer) of a tensor's name; None where it is in no layer, or in an extra prediction layer."""
    match = _LAYER.match(name)
    if match is None or _EXTRA.search(name):
        return None
    return match[1] or "", int(match[2])


def is_ignored(name: str, layers: int, stack: str) -> bool:
    """True for what stays in the file: extra prediction layers, computed buffers, towers for images and
    sound (locum runs every model as text).

    `layers` is `num_hidden_layers`, `stack` the decoder's prefix. Extra layers are stored after the last one
    (DeepSeek-V3, GLM-4-MoE: `model.layers.61`) or beside the model (`mtp.layers.0`, Qwen3-Next).
    """
    if _EXTRA.search(name) or _COMPUTED.search(name) or _TOWERS.search(name):
        return True
    place = layer_of(name)
    return place is not None and place[0] == stack and place[1] >= layers


def packed_groups(packed: Packed) -> tuple[ExpertGroup, ...]:
    """The groups of a packed folder, in forward order: an expert is one piece."""
    return tuple(
        ExpertGroup(
            module=layer.origin,
            stack=(layer_of(layer.origin + ".") or ("", 0))[0],
            layer=layer.layer,
            layout=PACKED,
            experts=len(layer.experts),
            pieces=(Piece("image", "U8", (layer.image_bytes,), layer.image_bytes),),
            tensors=(),
            params=layer.params,
        )
        for layer in packed.layers
    )


def numbered_below(tensors: Mapping[str, TensorInfo], experts: int) -> dict[str, TensorInfo]:
    """The tensors without those of experts whose number is `experts` or higher."""
    return {
        name: info
        for name, info in tensors.items()
        if not (match := _PER_EXPERT.fullmatch(name)) or int(match[2]) < experts
    }


def expert_groups(
    tensors: Mapping[str, TensorInfo], folder: object, experts: int | None
) -> tuple[ExpertGroup, ...]:
    """Every layer's routed experts, in order of stack and layer, extra prediction layers left out.

    `experts` is the number that the config gives (None where it gives none); the fused layout needs it to
    tell expert tensors from others. Raises `CheckpointError` when the experts of a layer are not numbered
    from 0 without gaps, or do not all have the same tensors.
    """
    single: dict[str, dict[int, dict[str, TensorInfo]]] = defaultdict(lambda: defaultdict(dict))
    fused: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    names: dict[str, list[str]] = defaultdict(list)
    for name, info in tensors.items():
        if "experts." not in name and "moe." not in name:
            continue
        if match := _PER_EXPERT.fullmatch(name):
            single[match[1]][int(match[2])][match[3]] = info
            names[match[1]].append(name)
        elif match := _FUSED.fullmatch(name) or _GRANITE.fullmatch(name) or _STEP.fullmatch(name):
            fused[match[1]][match[2]] = info
    groups = [
        _per_expert(module, stack_layer, found, tuple(names[module]), folder)
        for module, found in single.items()
        if (stack_layer := layer_of(module + "."))
    ]
    for module, parts in fused.items():
        stack_layer = layer_of(module + ".")
        if stack_layer and module not in single:
            groups.extend(_fused(module, stack_layer, parts, experts))
    return tuple(sorted(groups, key=lambda group: (group.stack, group.layer, group.module)))


def _per_expert(
    module: str,
    place: tuple[str, int],
    found: dict[int, dict[str, TensorInfo]],
    names: tuple[str, ...],
    folder: object,
) -> ExpertGroup:
    count = len(found)
    if max(found) != count - 1:
        missing = next(number for number in range(count) if number not in found)
        raise CheckpointError(
            f"expert {missing} of {module} is missing",
            where=folder,
            allowed=f"experts 0 to {max(found)}",
            got=f"{count} of them",
        )
    pieces = _pieces(found[0])
    for number in range(1, count):
        parts = found[number]
        if len(parts) == len(pieces) and all(
            (info := parts.get(piece.name)) and info.shape == piece.shape and info.dtype == piece.dtype
            for piece in pieces
        ):
            continue
        raise _odd_one_out(module, number, pieces, parts, folder)
    return ExpertGroup(module, *place, PER_EXPERT, count, pieces, names)


def _pieces(parts: dict[str, TensorInfo]) -> tuple[Piece, ...]:
    return tuple(Piece(name, info.dtype, info.shape, info.length) for name, info in sorted(parts.items()))


def _odd_one_out(
    module: str, number: int, pieces: tuple[Piece, ...], parts: dict[str, TensorInfo], folder: object
) -> CheckpointError:
    """The error for an expert that is not made like expert 0 of its layer."""
    for piece in pieces:
        info = parts.get(piece.name)
        if info is None:
            return CheckpointError(
                f"tensor '{module}.{number}.{piece.name}' is missing",
                where=folder,
                allowed="the tensors of expert 0",
            )
        if (info.shape, info.dtype) != (piece.shape, piece.dtype):
            return CheckpointError(
                f"tensor '{module}.{number}.{piece.name}' differs from expert 0's",
                where=f"{folder} ({info.file})",
                allowed=f"{piece.dtype} {list(piece.shape)}",
                got=f"{info.dtype} {list(info.shape)}",
            )
    extra = sorted(parts.keys() - {piece.name for piece in pieces})[0]
    return CheckpointError(
        f"expert 0 of {module} lacks the tensor {extra!r} that expert {number} has", where=folder
    )


def _fused(
    module: str, place: tuple[str, int], parts: dict[str, TensorInfo], experts: int | None
) -> list[ExpertGroup]:
    """One group, or none when nothing here has a row per expert (the tensors then count as backbone)."""
    many = {name: info for name, info in parts.items() if len(info.shape) >= 2 and info.shape[0]}
    if not many:
        return []
    rows = [info.shape[0] for info in many.values()]
    # dbrx stacks the experts' rows: [experts * rows, columns]
    stacked = bool(experts) and experts not in rows and all(len(info.shape) == 2 for info in many.values())
    stacked = stacked and all(row % (experts or 1) == 0 for row in rows)
    count = experts if experts and (stacked or experts in rows) else Counter(rows).most_common(1)[0][0]
    pieces = tuple(
        Piece(
            name,
            info.dtype,
            (info.shape[0] // count, *info.shape[1:]) if stacked else info.shape[1:],
            info.length // count,
        )
        for name, info in sorted(many.items())
        if stacked or info.shape[0] == count
    )
    return [
        ExpertGroup(module, *place, FUSED, count, pieces, tuple(f"{module}.{piece.name}" for piece in pieces))
    ]

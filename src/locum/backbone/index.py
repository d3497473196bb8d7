"""The expert index, built with transformers' own renamings and converters.

For every tensor of the checkpoint transformers can say which parameter it ends up in and by which operations.
For experts these are a stack over the experts (and, for gate and up, a concatenation of rows): pure
placement of bytes. That placement is all the index holds; any other operation is refused by name. Quantised
tensors go by the names they would have without quantisation (`model.schemes`), so the same holds for them.

The functions used (`get_model_conversion_mapping`, `rename_source_key`) are not documented interface, which
is why transformers is pinned and why the tests compare the index with a full load.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import Concatenate, WeightConverter, WeightRenaming, rename_source_key

from locum.backbone.experts import expert_shapes, experts_modules, way_of
from locum.backbone.family import build_skeleton
from locum.backbone.placing import Part, place_layer
from locum.errors import CheckpointError, UnsupportedError
from locum.kernels.stored import StoredParameter
from locum.model.checkpoint import Checkpoint
from locum.model.schemes import Stored, stored_tensors
from locum.store.index import ExpertIndex, FileId
from locum.store.packed import packed_index

_EXPERT_NUMBER = re.compile(r"experts\.(\d+)\.")
_RULES = 4  # raise when the same files would give another index
_PARTED = ("ErnieFuseAndSplitTextVisionExperts",)
_PLACEMENTS = (("MergeModulelist",), ("MergeModulelist", "Concatenate"))


def expert_index(checkpoint: Checkpoint, cache: Path | None = None) -> ExpertIndex:
    """The index of `checkpoint`, from `cache` (a JSON file) when that matches, else built and cached.

    Raises `CheckpointError` for missing experts or shapes at odds with the config, `UnsupportedError` for a
    layout that needs more than placement.
    """
    if checkpoint.packed is not None:
        return _fitting(packed_index(checkpoint, checkpoint.packed), checkpoint)
    identity = index_identity(checkpoint)
    if cache is not None and cache.exists():
        try:
            cached = ExpertIndex.load(cache)
        except (CheckpointError, KeyError, TypeError):
            cached = None  # a damaged cache is rebuilt
        if cached is not None and cached.identity == identity:
            return replace(cached, files=_files(checkpoint))  # the folder may have been moved since
    index = _build(checkpoint, identity)
    if cache is not None:
        index.save(cache)
    return index


def index_identity(checkpoint: Checkpoint) -> str:
    """What a cached index must match: the checkpoint's files, transformers' version and this module's
    rules.
    """
    return f"{checkpoint.identity}/{transformers.__version__}/{_RULES}"


def _build(checkpoint: Checkpoint, identity: str) -> ExpertIndex:
    skeleton = build_skeleton(checkpoint)
    parts = parts_by_parameter(stored_tensors(checkpoint), skeleton, transforms_of(checkpoint, skeleton))
    numbers = {file.name: number for number, file in enumerate(checkpoint.files)}
    layers = tuple(
        place_layer(checkpoint.folder, path, module, parts, numbers)
        for path, module in experts_modules(skeleton)
    )
    return ExpertIndex(files=_files(checkpoint), layers=layers, identity=identity)


def _files(checkpoint: Checkpoint) -> tuple[FileId, ...]:
    return tuple(
        FileId(str(checkpoint.folder / file.name), file.size, file.mtime_ns) for file in checkpoint.files
    )


def _fitting(index: ExpertIndex, checkpoint: Checkpoint) -> ExpertIndex:
    """The index of a packed folder, if it is of the very model that the config describes."""
    modules = dict(experts_modules(build_skeleton(checkpoint)))
    if list(modules) != [layer.module for layer in index.layers]:
        raise CheckpointError(
            "the packed experts are not those of the config's model",
            where=checkpoint.folder,
            allowed=list(modules)[:3],
            got=[layer.module for layer in index.layers][:3],
        )
    known: set[object] = set()
    for layer in index.layers:
        shapes = {name: tuple(meta.shape) for name, meta in expert_shapes(modules[layer.module]).items()}
        kind = layer.tensors, len(layer.experts), tuple(shapes.items())
        if kind in known:
            continue
        known.add(kind)
        try:
            found = {
                view.name: (len(layer.experts), *StoredParameter(view).trial()) for view in layer.tensors
            }
        except (LookupError, ValueError, RuntimeError, ArithmeticError, TypeError) as error:
            raise CheckpointError("packed experts make no sense", where=layer.module, got=error) from error
        if found != shapes or len(found) != len(layer.tensors):
            raise CheckpointError(
                "packed experts disagree with the config", where=layer.module, allowed=shapes, got=found
            )
    return index


def parts_by_parameter(
    stored: Mapping[str, Stored], skeleton: PreTrainedModel, transforms: Sequence[Any]
) -> dict[str, list[Part]]:
    """Stored tensors grouped by the experts parameter they end up in (`...experts.gate_up_proj`).

    `transforms`: transformers' conversions from the names in the files.
    """
    wanted: dict[str, Tensor] = {}
    own_name: dict[str, str] = {}
    for path, module in experts_modules(skeleton):
        wanted |= {f"{path}.{name}": tensor for name, tensor in expert_shapes(module).items()}
        own_name |= {f"{path}.{name}": f"{path}.{own}" for name, own in way_of(module).stored.items()}
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    state = {**skeleton.state_dict(), **wanted, **{name: wanted[own] for name, own in own_name.items()}}
    parts: dict[str, list[Part]] = defaultdict(list)
    for name in sorted(stored):
        target, pattern = rename_source_key(name, renamings, converters, skeleton.base_model_prefix, state)
        target = own_name.get(target, target)
        if target not in wanted:
            continue
        if pattern is None:
            parts[target].append(Part(0, None, stored[name]))
            continue
        converter = by_pattern[pattern]
        number = _EXPERT_NUMBER.search(name)
        order = converter.source_patterns.index(pattern)
        if number is None:
            placement = _placement_of(converter, target, stored[name].shape, state[target].shape)
            parts[target].append(Part(order, None, stored[name], placement))
            continue
        _require_placement(converter, target)
        parts[target].append(Part(order, int(number[1]), stored[name]))
    return parts


def transforms_of(checkpoint: Checkpoint, skeleton: PreTrainedModel) -> list[Any]:
    """transformers' conversions from the names in the files, and those that a GGUF needs beside them."""
    known = list(get_model_conversion_mapping(skeleton))
    if checkpoint.is_gguf:  # gate and up lie in tensors of their own, [E, I, H] each
        apart = [r"\.experts\.gate_proj$", r"\.experts\.up_proj$"]
        known.append(WeightConverter(apart, ".experts.gate_up_proj", operations=[Concatenate(dim=1)]))
    return known


def _require_placement(converter: WeightConverter, target: str) -> None:
    operations = tuple(type(op).__name__ for op in converter.operations)
    rows = [getattr(op, "dim", 0) for op in converter.operations]
    if operations == _PARTED:  # the same, for the first half of the experts, and for the others elsewhere
        facts = vars(converter.operations[0])
        operations, rows = _PLACEMENTS[1], [facts["stack_dim"], facts["concat_dim"]]
    if operations not in _PLACEMENTS or rows != [0, 1][: len(rows)]:
        raise _unknown(converter, target)


def _placement_of(
    converter: WeightConverter, target: str, stored: Sequence[int], wanted: Sequence[int]
) -> str:
    """What `converter` does to a tensor of all experts: a placement of `kernels.forms`, or nothing."""
    operations = converter.operations
    if len(operations) == 1:
        name, facts = type(operations[0]).__name__, vars(operations[0])
        if name == "Concatenate" and facts["dim"] == 1:
            return ""
        if name == "Interleave" and facts["dim"] == 1 and not facts["inverse"]:
            return "interleaved"
        if name == "Transpose" and {facts["dim0"], facts["dim1"]} == {1, 2}:
            right_way_round = facts["check_dims"] and tuple(stored) == tuple(wanted)
            return "" if right_way_round else "transposed"
    raise _unknown(converter, target)


def _unknown(converter: WeightConverter, target: str) -> UnsupportedError:
    return UnsupportedError(
        "this checkpoint's experts are stored in a form that locum does not know",
        where=target,
        allowed="experts stacked, gate and up concatenated by rows or by turns, or all transposed",
        got=" then ".join(type(operation).__name__ for operation in converter.operations),
    )

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
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import Concatenate, WeightConverter, WeightRenaming, rename_source_key

from locum.backbone.experts import expert_shapes, experts_modules
from locum.backbone.family import build_skeleton
from locum.backbone.placing import Part, place_layer
from locum.errors import CheckpointError, UnsupportedError
from locum.model.checkpoint import Checkpoint
from locum.model.schemes import Stored, stored_tensors
from locum.store.index import ExpertIndex, FileId

_EXPERT_NUMBER = re.compile(r"experts\.(\d+)\.")
_RULES = 3  # raise when the same files would give another index
_PLACEMENTS = (("MergeModulelist",), ("MergeModulelist", "Concatenate"))


def expert_index(checkpoint: Checkpoint, cache: Path | None = None) -> ExpertIndex:
    """The index of `checkpoint`, from `cache` (a JSON file) when that matches, else built and cached.

    Raises `CheckpointError` for missing experts or shapes at odds with the config, `UnsupportedError` for a
    layout that needs more than placement.
    """
    identity = index_identity(checkpoint)
    if cache is not None and cache.exists():
        try:
            cached = ExpertIndex.load(cache)
        except (CheckpointError, KeyError, TypeError):
            cached = None  # a damaged cache is rebuilt
        if cached is not None and cached.identity == identity:
            return cached
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
    transforms = [*get_model_conversion_mapping(skeleton), *(gguf_transforms() if checkpoint.is_gguf else ())]
    parts = parts_by_parameter(stored_tensors(checkpoint), skeleton, transforms)
    numbers = {file.name: number for number, file in enumerate(checkpoint.files)}
    layers = tuple(
        place_layer(checkpoint.folder, path, expert_shapes(module), parts, numbers)
        for path, module in experts_modules(skeleton)
    )
    files = tuple(
        FileId(str(checkpoint.folder / file.name), file.size, file.mtime_ns) for file in checkpoint.files
    )
    return ExpertIndex(files=files, layers=layers, identity=identity)


def parts_by_parameter(
    stored: Mapping[str, Stored], skeleton: PreTrainedModel, transforms: Sequence[Any]
) -> dict[str, list[Part]]:
    """Stored tensors grouped by the experts parameter they end up in (`...experts.gate_up_proj`).

    `transforms`: transformers' conversions from the names in the files.
    """
    wanted = {
        f"{path}.{name}" for path, module in experts_modules(skeleton) for name in expert_shapes(module)
    }
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    state = skeleton.state_dict()
    parts: dict[str, list[Part]] = defaultdict(list)
    for name in sorted(stored):
        target, pattern = rename_source_key(name, renamings, converters, skeleton.base_model_prefix, state)
        if target not in wanted:
            continue
        if pattern is None:
            parts[target].append(Part(0, None, stored[name]))
            continue
        converter = by_pattern[pattern]
        order = converter.source_patterns.index(pattern)
        number = _EXPERT_NUMBER.search(name)
        if number is None:
            placement = _placement_of(converter, target, stored[name].shape, state[target].shape)
            parts[target].append(Part(order, None, stored[name], placement))
            continue
        _require_placement(converter, target)
        parts[target].append(Part(order, int(number[1]), stored[name]))
    return parts


def gguf_transforms() -> list[WeightConverter]:
    """What llama.cpp does to all experts alike: gate and up lie in tensors of their own, [E, I, H] each."""
    return [
        WeightConverter(
            [r"\.experts\.gate_proj$", r"\.experts\.up_proj$"],
            ".experts.gate_up_proj",
            operations=[Concatenate(dim=1)],
        )
    ]


def _require_placement(converter: WeightConverter, target: str) -> None:
    operations = tuple(type(op).__name__ for op in converter.operations)
    rows = [getattr(op, "dim", 0) for op in converter.operations]
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

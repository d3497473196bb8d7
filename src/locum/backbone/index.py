"""The expert index, built with transformers' own renamings and converters.

For every tensor of the checkpoint transformers can say which parameter it ends up in and by which operations.
For experts these are a stack over the experts (and, for gate and up, a concatenation of rows): pure
placement of bytes. That placement is all the index holds; any other operation is refused by name.

The functions used (`get_model_conversion_mapping`, `rename_source_key`) are not documented interface, which
is why transformers is pinned and why the tests compare the index with a full load.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from locum.backbone.experts import expert_shapes, experts_modules, way_of
from locum.backbone.family import build_skeleton
from locum.errors import CheckpointError, UnsupportedError
from locum.kernels.forms import stored_shape
from locum.model.checkpoint import Checkpoint
from locum.model.header import TensorInfo
from locum.store.index import ALIGN, ExpertIndex, FileId, LayerIndex, Span, TensorView, merge_spans

_EXPERT_NUMBER = re.compile(r"experts\.(\d+)\.")
_LAYER_NUMBER = re.compile(r"\.(\d+)\.")
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
_RULES = 3  # raise when the same files would give another index
_PARTED = ("ErnieFuseAndSplitTextVisionExperts",)
_PLACEMENTS = (("MergeModulelist",), ("MergeModulelist", "Concatenate"))


class _Part(NamedTuple):
    """One checkpoint tensor that makes up (part of) an expert parameter."""

    order: int  # place among the concatenated sources: gate 0, up 1
    expert: int | None  # None: the tensor holds all experts
    name: str
    form: str = "raw"  # see kernels.forms


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
    parts = _parts_by_parameter(checkpoint, skeleton)
    numbers = {file.name: number for number, file in enumerate(checkpoint.files)}
    layers = tuple(
        _layer(checkpoint, path, module, parts, numbers) for path, module in experts_modules(skeleton)
    )
    files = tuple(
        FileId(str(checkpoint.folder / file.name), file.size, file.mtime_ns) for file in checkpoint.files
    )
    return ExpertIndex(files=files, layers=layers, identity=identity)


def _parts_by_parameter(checkpoint: Checkpoint, skeleton: PreTrainedModel) -> dict[str, list[_Part]]:
    """Checkpoint tensors grouped by the experts parameter they end up in (`...experts.gate_up_proj`)."""
    wanted: dict[str, Tensor] = {}
    own_name: dict[str, str] = {}
    for path, module in experts_modules(skeleton):
        wanted |= {f"{path}.{name}": tensor for name, tensor in expert_shapes(module).items()}
        own_name |= {f"{path}.{name}": f"{path}.{own}" for name, own in way_of(module).stored.items()}
    transforms = get_model_conversion_mapping(skeleton)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    state = {**skeleton.state_dict(), **wanted, **{name: wanted[own] for name, own in own_name.items()}}
    parts: dict[str, list[_Part]] = defaultdict(list)
    for name in sorted(checkpoint.tensors):
        target, pattern = rename_source_key(name, renamings, converters, skeleton.base_model_prefix, state)
        target = own_name.get(target, target)
        if target not in wanted:
            continue
        if pattern is None:
            parts[target].append(_Part(0, None, name))
            continue
        converter = by_pattern[pattern]
        number = _EXPERT_NUMBER.search(name)
        order = converter.source_patterns.index(pattern)
        if number is None:
            form = _form_of(converter, target, checkpoint.tensors[name].shape, state[target].shape)
            parts[target].append(_Part(order, None, name, form))
            continue
        _require_placement(converter, target)
        parts[target].append(_Part(order, int(number[1]), name))
    return parts


def _require_placement(converter: WeightConverter, target: str) -> None:
    operations = tuple(type(op).__name__ for op in converter.operations)
    rows = [getattr(op, "dim", 0) for op in converter.operations]
    if operations == _PARTED:  # the same, for the first half of the experts, and for the others elsewhere
        facts = vars(converter.operations[0])
        operations, rows = _PLACEMENTS[1], [facts["stack_dim"], facts["concat_dim"]]
    if operations not in _PLACEMENTS or rows != [0, 1][: len(rows)]:
        raise _unknown(converter, target)


def _form_of(converter: WeightConverter, target: str, stored: Sequence[int], wanted: Sequence[int]) -> str:
    """The form of a tensor that holds all experts and goes through `converter`."""
    operations = converter.operations
    if len(operations) == 1:
        name, facts = type(operations[0]).__name__, vars(operations[0])
        if name == "Concatenate" and facts["dim"] == 1:
            return "raw"
        if name == "Interleave" and facts["dim"] == 1 and not facts["inverse"]:
            return "interleaved"
        if name == "Transpose" and {facts["dim0"], facts["dim1"]} == {1, 2}:
            right_way_round = facts["check_dims"] and tuple(stored) == tuple(wanted)
            return "raw" if right_way_round else "transposed"
    raise _unknown(converter, target)


def _unknown(converter: WeightConverter, target: str) -> UnsupportedError:
    return UnsupportedError(
        "this checkpoint's experts are stored in a form that locum does not know",
        where=target,
        allowed="experts stacked, gate and up concatenated by rows or by turns, or all transposed",
        got=" then ".join(type(operation).__name__ for operation in converter.operations),
    )


def _layer(
    checkpoint: Checkpoint,
    path: str,
    module: nn.Module,
    parts: dict[str, list[_Part]],
    numbers: dict[str, int],
) -> LayerIndex:
    shapes, beyond = expert_shapes(module), way_of(module).beyond
    sources = {
        name: _pieces(checkpoint, f"{path}.{name}", parts.get(f"{path}.{name}", []), meta, beyond)
        for name, meta in shapes.items()
    }
    forms = {name: found[0].form for name in shapes if (found := parts.get(f"{path}.{name}"))}
    count = next(iter(shapes.values())).shape[0]
    spans: list[list[Span]] = [[] for _ in range(count)]
    views, at = [], 0
    # tensors follow one another as they do in the file: neighbours there are then read as one
    for name in sorted(sources, key=lambda n: (numbers[sources[n][0][0].file], sources[n][0][0].offset)):
        form = forms.get(name, "raw")
        dtype = _DTYPES[sources[name][0][0].dtype]
        views.append(TensorView(name, tuple(shapes[name].shape[1:]), dtype, at, form))
        for expert, infos in enumerate(sources[name]):
            here = at
            for info in infos:
                spans[expert].append(Span(numbers[info.file], info.offset, info.length, here))
                here += info.length
        at = -(-(at + sum(info.length for info in sources[name][0])) // ALIGN) * ALIGN
    layer = _LAYER_NUMBER.search(path)
    return LayerIndex(
        module=path,
        layer=int(layer[1]) if layer else 0,
        image_bytes=at,
        tensors=tuple(views),
        experts=tuple(tuple(merge_spans(expert)) for expert in spans),
    )


def _pieces(
    checkpoint: Checkpoint, target: str, parts: list[_Part], meta: Tensor, beyond: int
) -> list[list[TensorInfo]]:
    """Per expert, the byte runs that make up its part of parameter `target` [E, ...], checked against
    `meta`. The `beyond` numbers after the last may be there and are left there.
    """
    if not parts:
        raise CheckpointError("experts are missing", where=checkpoint.folder, allowed=f"tensors for {target}")
    count, shape = meta.shape[0], stored_shape(parts[0].form, tuple(meta.shape[1:]))
    whole = (count, *shape)
    sources = (
        _slices(checkpoint, target, parts, whole) if parts[0].expert is None else _rows(checkpoint, parts)
    )
    for number in range(count, count + beyond):
        sources.pop(number, None)
    missing = [expert for expert in range(count) if not sources.get(expert)]
    extra = sorted(set(sources) - set(range(count)))
    if missing or extra:
        raise CheckpointError(
            f"the checkpoint's experts disagree with its config for {target}",
            where=checkpoint.folder,
            allowed=f"experts 0 to {count - 1}",
            got=f"missing {_some(missing)}" if missing else f"also {_some(extra)}",
        )
    kinds = {info.dtype for infos in sources.values() for info in infos}
    if len(kinds) != 1 or not kinds <= set(_DTYPES):
        raise UnsupportedError(
            "an expert dtype that locum does not run",
            where=target,
            allowed=sorted(_DTYPES),
            got=sorted(kinds),
        )
    for expert, infos in sorted(sources.items()):
        got = (sum(info.shape[0] for info in infos), *infos[0].shape[1:])
        if got != shape or len({info.shape[1:] for info in infos}) > 1:
            raise CheckpointError(
                f"the shape of expert {expert} disagrees with the config",
                where=target,
                allowed=list(shape),
                got=[list(info.shape) for info in infos],
            )
    return [sources[expert] for expert in range(count)]


def _rows(checkpoint: Checkpoint, parts: list[_Part]) -> dict[int, list[TensorInfo]]:
    """Per-expert tensors, in the order of concatenation."""
    found: dict[int, list[TensorInfo]] = defaultdict(list)
    for part in sorted(parts, key=lambda p: (p.expert or 0, p.order)):
        assert part.expert is not None
        found[part.expert].append(checkpoint.tensors[part.name])
    return found


def _slices(
    checkpoint: Checkpoint, target: str, parts: list[_Part], shape: tuple[int, ...]
) -> dict[int, list[TensorInfo]]:
    """Tensors [E, ...] hold all experts: cut them along the first axis. Several follow one another by rows,
    and one alone may be flat, [E * rows, ...].
    """
    infos = [checkpoint.tensors[part.name] for part in sorted(parts)]
    if [info.shape for info in infos] == [(shape[0] * shape[1], *shape[2:])]:
        infos = [infos[0]._replace(shape=shape)]
    rows = sum(info.shape[1] for info in infos if len(info.shape) > 1)
    if any((*info.shape[:1], rows, *info.shape[2:]) != shape for info in infos):
        raise CheckpointError(
            "the shape of the fused experts disagrees with the config",
            where=target,
            allowed=list(shape),
            got=[list(checkpoint.tensors[part.name].shape) for part in parts],
        )
    sources: dict[int, list[TensorInfo]] = defaultdict(list)
    for info in infos:
        step = info.length // shape[0]
        for expert in range(shape[0]):
            offset = info.offset + expert * step
            sources[expert].append(info._replace(shape=info.shape[1:], offset=offset, length=step))
    return sources


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown} and {len(numbers) - 5} more" if len(numbers) > 5 else shown


def torch_dtype(name: str) -> torch.dtype:
    """`bfloat16` -> `torch.bfloat16`."""
    dtype: Any = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype

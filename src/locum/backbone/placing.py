"""Where the stored tensors of a layer's experts go in their images: arithmetic on names, shapes, offsets."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from locum.backbone.experts import expert_shapes, way_of
from locum.errors import CheckpointError, UnsupportedError
from locum.kernels.forms import placed_shape
from locum.model.header import TORCH_NAMES, TensorInfo
from locum.model.quant import FLOATS
from locum.model.schemes import Stored
from locum.store.index import ALIGN, RAW, LayerIndex, Matrix, Piece, Span, TensorView, merge_spans

_LAYER_NUMBER = re.compile(r"\.(\d+)\.")
_DTYPES = {code: name for code, name in TORCH_NAMES.items() if code != "BOOL"}


class Part(NamedTuple):
    """A stored tensor that makes up (part of) an expert parameter."""

    order: int
    """Place among the concatenated sources: gate 0, up 1."""
    expert: int | None
    """None: the tensor holds all experts."""
    stored: Stored
    placement: str = ""
    """How its numbers have to be moved once made, see `kernels.forms`."""

    @property
    def form(self) -> str:
        """The stored tensor's form and the placement."""
        return "+".join(filter(None, (self.stored.form, self.placement)))


@dataclass
class _Unit:
    """A run of an image: one piece of every expert, or the rows of several that are used as one."""

    sources: list[list[TensorInfo]]
    """Per expert, what follows one another here."""
    dtype: str
    align: int
    at: int = 0

    @property
    def length(self) -> int:
        return sum(info.length for info in self.sources[0])


def place_layer(
    where: object,
    path: str,
    module: nn.Module,
    parts: Mapping[str, Sequence[Part]],
    numbers: Mapping[str, int],
) -> LayerIndex:
    """The index of the experts module at `path`.

    `where` names the checkpoint in errors, `parts` are what the module's parameters [E, ...] are made of,
    `numbers` those of the files. Raises `CheckpointError` for missing experts and shapes at odds
    with the config, `UnsupportedError` for a dtype that is no weight.
    """
    views: dict[str, list[tuple[str, tuple[int, ...], dict[str, tuple[_Unit, tuple[int, ...]]]]]] = {}
    units: list[_Unit] = []
    shapes, beyond = expert_shapes(module), way_of(module).beyond
    for name, meta in shapes.items():
        target = f"{path}.{name}"
        rows = _by_expert(where, target, parts.get(target, ()), tuple(meta.shape), beyond)
        views[name] = list(_matrices(target, rows, tuple(meta.shape[1:])))
        units += [unit for _, _, pieces in views[name] for unit, _ in pieces.values()]
    at = 0
    # units follow one another as they do in the file: neighbours there are then read as one
    for unit in sorted(units, key=lambda u: (numbers[u.sources[0][0].file], u.sources[0][0].offset)):
        unit.at = -(-at // unit.align) * unit.align
        at = unit.at + unit.length
    layer = _LAYER_NUMBER.search(path)
    return LayerIndex(
        module=path,
        layer=int(layer[1]) if layer else 0,
        image_bytes=at,
        tensors=tuple(
            TensorView(
                name,
                tuple(shapes[name].shape[1:]),
                tuple(
                    Matrix(
                        form,
                        shape,
                        tuple(Piece(role, u.dtype, size, u.at) for role, (u, size) in pieces.items()),
                    )
                    for form, shape, pieces in matrices
                ),
            )
            for name, matrices in views.items()
        ),
        experts=tuple(
            tuple(merge_spans(_spans(units, expert, numbers)))
            for expert in range(next(iter(shapes.values())).shape[0])
        ),
    )


def _spans(units: Sequence[_Unit], expert: int, numbers: Mapping[str, int]) -> Iterator[Span]:
    for unit in units:
        at = unit.at
        for info in unit.sources[expert]:
            yield Span(numbers[info.file], info.offset, info.length, at)
            at += info.length


def _by_expert(
    where: object, target: str, parts: Sequence[Part], whole: tuple[int, ...], beyond: int
) -> list[list[Part]]:
    """Per expert, its parts in the order of concatenation, checked against the parameter's shape `whole`.

    The `beyond` numbers after the last may be there and are left there.
    """
    if not parts:
        raise CheckpointError("experts are missing", where=where, allowed=f"tensors for {target}")
    count, shape = whole[0], whole[1:]
    found = _slices(target, parts, whole) if parts[0].expert is None else _rows(parts)
    for number in range(count, count + beyond):
        found.pop(number, None)
    missing = [expert for expert in range(count) if not found.get(expert)]
    extra = sorted(set(found) - set(range(count)))
    if missing or extra:
        raise CheckpointError(
            f"the checkpoint's experts disagree with its config for {target}",
            where=where,
            allowed=f"experts 0 to {count - 1}",
            got=f"missing {_some(missing)}" if missing else f"also {_some(extra)}",
        )
    first = _made_of(found[0])
    for expert, ours in sorted(found.items()):
        made = [placed_shape(part.placement, part.stored.shape) for part in ours]
        got = (sum(rows for rows, *_ in made), *made[0][1:])
        if got != shape or len({tuple(rest) for _, *rest in made}) > 1:
            raise CheckpointError(
                f"the shape of expert {expert} disagrees with the config",
                where=target,
                allowed=list(shape),
                got=[list(sides) for sides in made],
            )
        if _made_of(ours) != first:
            raise CheckpointError(
                f"expert {expert} is stored in another way than expert 0", where=target, allowed=first
            )
    return [found[expert] for expert in range(count)]


def _made_of(parts: Sequence[Part]) -> list[Any]:
    """What must be the same for all experts of a layer."""
    return [
        (part.form, [(role, info.dtype, info.shape) for role, info in part.stored.pieces]) for part in parts
    ]


def _rows(parts: Sequence[Part]) -> dict[int, list[Part]]:
    found: dict[int, list[Part]] = defaultdict(list)
    for part in sorted(parts, key=lambda p: (p.expert or 0, p.order)):
        assert part.expert is not None
        found[part.expert].append(part)
    return found


def _slices(target: str, parts: Sequence[Part], whole: tuple[int, ...]) -> dict[int, list[Part]]:
    """Tensors [E, ...] that hold all experts: cut along the first axis.

    Several follow one another by rows, and one alone may be flat, [E * rows, ...].
    """
    count = whole[0]
    if [part.stored.shape for part in parts] == [(count * whole[1], *whole[2:])]:
        parts = [_unflattened(parts[0], whole)]
    lengths = [info.shape[:1] for part in parts for _, info in part.stored.pieces]
    rows = sum(placed_shape(part.placement, part.stored.shape)[1] for part in parts)
    if set(lengths) != {(count,)} or rows != whole[1]:
        raise CheckpointError(
            "the shape of the fused experts disagrees with the config",
            where=target,
            allowed=list(whole),
            got=[list(placed_shape(part.placement, part.stored.shape)) for part in parts],
        )
    ordered = sorted(parts, key=lambda part: part.order)
    return {expert: [_slice(part, expert, count) for part in ordered] for expert in range(count)}


def _unflattened(part: Part, whole: tuple[int, ...]) -> Part:
    if part.stored.form != RAW:
        return part
    ((role, info),) = part.stored.pieces
    pieces = ((role, info._replace(shape=whole)),)
    return part._replace(stored=part.stored._replace(shape=whole, pieces=pieces))


def _slice(part: Part, expert: int, count: int) -> Part:
    def cut(info: TensorInfo) -> TensorInfo:
        step = info.length // count
        return info._replace(shape=info.shape[1:], offset=info.offset + expert * step, length=step)

    stored = part.stored
    pieces = tuple((role, cut(info)) for role, info in stored.pieces)
    return part._replace(stored=stored._replace(shape=stored.shape[1:], pieces=pieces))


def _matrices(
    target: str, rows: Sequence[Sequence[Part]], shape: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...], dict[str, tuple[_Unit, tuple[int, ...]]]]]:
    """(form, shape, role to unit and stored shape) of each matrix that makes up a parameter of `shape`."""
    parts = rows[0]
    if all(part.stored.form == RAW for part in parts) and (len(parts) == 1 or not parts[0].placement):
        infos = [[part.stored.pieces[0][1] for part in ours] for ours in rows]
        unit = _Unit(infos, _dtype(target, infos[0], FLOATS), ALIGN)
        form = parts[0].form
        yield form, shape, {"weight": (unit, placed_shape(form, shape))}
        return
    for number, part in enumerate(parts):
        pieces = {}
        for place, (role, info) in enumerate(part.stored.pieces):
            sources = [[ours[number].stored.pieces[place][1]] for ours in rows]
            dtype = _dtype(target, sources[0], FLOATS if part.stored.form == RAW else _DTYPES)
            pieces[role] = _Unit(sources, dtype, _itemsize(dtype)), info.shape
        yield part.form, placed_shape(part.placement, part.stored.shape), pieces


def _dtype(target: str, infos: Sequence[TensorInfo], known: Mapping[str, str]) -> str:
    kinds = {info.dtype for info in infos}
    if len(kinds) != 1 or not kinds <= known.keys():
        raise UnsupportedError(
            "an expert dtype that locum does not run", where=target, allowed=sorted(known), got=sorted(kinds)
        )
    return known[infos[0].dtype]


def _itemsize(dtype: str) -> int:
    return int(getattr(torch, dtype).itemsize)


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown} and {len(numbers) - 5} more" if len(numbers) > 5 else shown

"""The contract of an importer: a function from a file to a trace's meta and rows.

It says what the source says and nothing more: what a source lacks is left out, what it leaves open is a note.
It is given `Hints`, what the user knows beside the file, and a `Loader` for torch's files, because this room
has no torch. Wrong input is a `TraceError` that names file and place; ids that make no sense are caught when
the rows are checked.

Axes: T tokens of a record, L layers as the source has them, K ids per token, E experts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.errors import TraceError
from locum.trace.columns import Rows
from locum.trace.meta import TraceMeta
from locum.trace.validate import check_rows

Loader = Callable[[Path], Any]
"""Reads a file of torch's: nested dicts and lists with numpy arrays for tensors."""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What the user knows beside the file."""

    model: str = ""
    moe_layers: tuple[int, ...] | None = None
    """Absolute numbers of the MoE layers; None: those whose ids can be a choice."""
    layers: int | None = None
    """Layers of the model, dense ones included, where the source does not say."""
    experts: int | None = None
    top_k: int | None = None
    tokens: bool = True
    """Keep token ids."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A trace to be written. `notes`: what the source left open, for people."""

    meta: TraceMeta
    rows: Iterator[Rows]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """Tokens that the source keeps together, all of one request or of one forward pass."""

    where: str
    request: NDArray[np.int32]
    """[T]"""
    position: NDArray[np.int32]
    step: NDArray[np.int64]
    phase: NDArray[np.uint8]
    ids: NDArray[Any]
    """[T, L, K]; below 0: nobody."""
    token: NDArray[np.int32] | None = None
    weights: NDArray[np.float16] | None = None


@dataclass
class _Shape:
    """What the records say together."""

    layers: int = 0
    width: int = 0
    largest: int = -1
    possible: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """[L]: some token's ids can be a choice."""
    chosen: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[L]: the most ids of a token."""
    tokens: int = 0
    has_token: bool = True
    has_weights: bool = True


def assemble(
    records: Callable[[], Iterable[Record]],
    hints: Hints,
    engine: str,
    source: Path,
    notes: Sequence[str] = (),
) -> Imported:
    """A trace of what `records` gives, which is gone through twice.

    Layers where no token's ids can be a choice, because all are -1 or stand twice, are dense ones that the
    source filled up; they are left out. Raises `TraceError`.
    """
    shape = _survey(records, source)
    layers, numbers = _moe_layers(shape, hints, source)
    largest = int(shape.largest)
    experts = hints.experts if hints.experts is not None else largest + 1
    top_k = tuple(max(1, int(count)) for count in shape.chosen[layers])
    if hints.top_k is not None:
        if max(top_k) > hints.top_k or shape.width < hints.top_k:
            raise TraceError(
                "the source does not hold the choices of this model", where=source,
                allowed=f"{hints.top_k} experts per token",
                got=f"up to {max(top_k)} of at most {shape.width}",
            )  # fmt: skip
        top_k = (hints.top_k,) * len(top_k)
    columns = [
        name
        for name, there in (("token", shape.has_token and hints.tokens), ("weights", shape.has_weights))
        if there
    ]
    meta = TraceMeta(
        model=hints.model, moe_layers=tuple(numbers), experts=(experts,) * len(numbers), top_k=top_k,
        engine=engine, columns=tuple(columns),
    )  # fmt: skip
    return Imported(meta, _rows(records, meta, layers, source), tuple(notes))


def _survey(records: Callable[[], Iterable[Record]], source: Path) -> _Shape:
    found = _Shape()
    for record in records():
        tokens, layers, width = record.ids.shape
        if not found.tokens:
            found.layers, found.width = layers, width
            found.possible, found.chosen = np.zeros(layers, bool), np.zeros(layers, np.int64)
        if (layers, width) != (found.layers, found.width):
            raise TraceError(
                "records of different shapes", where=f"{source}, {record.where}",
                allowed=f"{found.layers} layers x {found.width}", got=f"{layers} x {width}",
            )  # fmt: skip
        if not tokens:
            continue
        found.tokens += tokens
        found.largest = max(found.largest, int(record.ids.max()))
        found.possible |= _can_be_chosen(record.ids)
        found.chosen = np.maximum(found.chosen, (record.ids >= 0).sum(2).max(0))
        found.has_token &= record.token is not None
        found.has_weights &= record.weights is not None
    if not found.tokens:
        raise TraceError("there are no tokens", where=source)
    return found


def _can_be_chosen(ids_TLK: NDArray[Any]) -> NDArray[np.bool_]:
    """[L]: whether some token has an id there and none twice."""
    ordered = np.sort(ids_TLK, axis=2)
    twice_TL = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any(2)
    found: NDArray[np.bool_] = ((ids_TLK >= 0).any(2) & ~twice_TL).any(0)
    return found


def _moe_layers(shape: _Shape, hints: Hints, source: Path) -> tuple[list[int], list[int]]:
    """(places in the source, absolute numbers) of the MoE layers."""
    if hints.moe_layers is None:
        places = np.flatnonzero(shape.possible).tolist()
        if not places:
            raise TraceError("no layer has ids that can be a choice", where=source)
        return places, places
    numbers = list(hints.moe_layers)
    if len(numbers) == shape.layers:
        return list(range(shape.layers)), numbers
    if numbers and max(numbers) < shape.layers:
        return numbers, numbers
    raise TraceError(
        "the MoE layers named are not those of the source", where=source,
        allowed=f"numbers below {shape.layers}, or {shape.layers} of them", got=numbers,
    )  # fmt: skip


def _rows(
    records: Callable[[], Iterable[Record]], meta: TraceMeta, layers: list[int], source: Path
) -> Iterator[Rows]:
    width = max(meta.top_k)
    for record in records():
        if not len(record.ids):
            continue
        ids, order = front(record.ids[:, layers])
        where = f"{source}, {record.where}"
        extra: dict[str, Any] = {}
        if "token" in meta.columns:
            extra["token"] = record.token
        if "weights" in meta.columns:
            assert record.weights is not None
            weights = np.take_along_axis(record.weights[:, layers], order, 2)[..., :width]
            extra["weights"] = np.where(ids[..., :width] >= 0, weights, np.float16(np.nan))
        rows = Rows(
            request=record.request, position=record.position, step=record.step, phase=record.phase,
            experts=np.ascontiguousarray(_narrow(ids, meta, where)[..., :width]), **extra,
        )  # fmt: skip
        check_rows(rows, meta, where, 0)
        yield rows


def _narrow(ids: NDArray[Any], meta: TraceMeta, where: str) -> NDArray[np.int16]:
    """As int16, after a look at what would not fit."""
    largest = int(ids.max())
    if largest >= max(meta.experts):
        raise TraceError(
            "an expert's number is out of range",
            where=where,
            allowed=f"0 to {max(meta.experts) - 1}",
            got=largest,
        )
    return ids.astype(np.int16)


def front(ids_TLK: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Ids with nobody (-1) behind everybody, and the order that does it."""
    nobody = ids_TLK < 0
    order = np.argsort(nobody, axis=2, kind="stable")
    return np.take_along_axis(np.where(nobody, -1, ids_TLK), order, 2), order

"""Files of SGLang's expert distribution recorder, in its modes `per_token`, `per_pass` and `stat`.

`per_token` has tokens: per forward pass ids [layers, tokens, 8], -1 where nothing was chosen, as on dense
layers. The ids are physical, so the map of places to experts is applied. It names no requests: they are found
again by their positions, each row going on with the first request that stands where the row begins; two
requests that stand at the same place may change names.

`per_pass` and `stat` have only counts, per pass or per window: their traces answer questions of load and no
others. Counts are of physical places in `per_pass`, and of one file per rank, which have to be added up.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.errors import TraceError
from locum.trace.columns import DECODE, PREFILL, Rows
from locum.trace.importers.base import Hints, Imported, Loader, Record, assemble
from locum.trace.meta import TraceMeta

WIDTH = 8
"""Choices per token that `per_token` keeps, however many there are."""
_DECODE = 2  # ForwardMode.DECODE


def read(source: Path, hints: Hints, load: Loader) -> Imported:
    """See `base`. A folder is read as the files of all ranks of one `per_pass` recording."""
    files = sorted(source.glob("*.pt")) if source.is_dir() else [source]
    if not files:
        raise TraceError("there are no recorder files", where=source, allowed="*.pt")
    documents = [_document(load(path), path) for path in files]
    first = documents[0]
    if "logical_count" in first:
        return _stat(first, hints, source)
    records = first.get("records")
    if not isinstance(records, Sequence) or not records:
        raise TraceError(
            "no recording of SGLang's", where=source, allowed="`records` or `logical_count`", got=list(first)
        )
    if "topk_ids_of_layer" in records[0]:
        if len(documents) > 1:
            raise TraceError("give one rank's file", where=source, got=f"{len(documents)} files")
        return _per_token(first, hints, source)
    return _per_pass(documents, hints, source)


def _document(loaded: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(loaded, Mapping):
        raise TraceError("no recording of SGLang's", where=path, got=type(loaded).__name__)
    return loaded


def _map(document: Mapping[str, Any], source: Path) -> NDArray[np.int64]:
    """[L, P]: the expert at each physical place."""
    found = document.get("last_physical_to_logical_map")
    if not isinstance(found, np.ndarray) or found.ndim != 2:
        raise TraceError("the map from places to experts is missing", where=source, got=type(found).__name__)
    return found.astype(np.int64)


# tokens


@dataclass
class _Requests:
    """Who goes on where: open requests in the order of their rows, by the next position."""

    count: int = 0
    next: dict[int, int] = field(default_factory=dict)

    def extend(self, begin: int, length: int) -> int:
        """The request whose prompt goes on at `begin`, a new one at 0 or where nobody stands."""
        found = next((r for r, position in self.next.items() if begin and position == begin), None)
        if found is None:
            found, self.count = self.count, self.count + 1
        self.next[found] = begin + length
        return found

    def decode(self, positions: Sequence[int]) -> list[int]:
        """The requests of the rows of a decode pass."""
        rows, taken = [], set[int]()
        for position in positions:
            found = next((r for r, at in self.next.items() if at == position and r not in taken), None)
            if found is None:
                found, self.count = self.count, self.count + 1
            taken.add(found)
            self.next[found] = position + 1
            rows.append(found)
        return rows


def _per_token(document: Mapping[str, Any], hints: Hints, source: Path) -> Imported:
    place_LP = _map(document, source)
    if hints.top_k is not None and hints.top_k > WIDTH:
        raise TraceError(
            "the recorder keeps no more than 8 choices of a token", where=source, allowed=f"top_k <= {WIDTH}",
            got=hints.top_k, todo="Record with return_routed_experts instead",
        )  # fmt: skip

    def records() -> Iterator[Record]:
        requests = _Requests()
        passes = sorted(
            enumerate(document["records"]), key=lambda item: item[1].get("forward_pass_id", item[0])
        )
        for number, record in passes:
            if len(record["input_ids"]):
                yield _tokens_of(record, number, place_LP, requests, source)

    notes = ["requests were found again by their positions"]
    if hints.top_k is None:
        notes.append(
            f"the recorder keeps {WIDTH} choices of a token: if the model makes more, some are missing"
        )
    hints = hints if hints.experts is not None else replace(hints, experts=int(place_LP.max()) + 1)
    return assemble(records, hints, "sglang", source, notes)


def _tokens_of(
    record: Mapping[str, Any], number: int, place_LP: NDArray[np.int64], requests: _Requests, source: Path
) -> Record:
    where = f"{source.name}, pass {number}"
    ids_LTK, positions = np.asarray(record["topk_ids_of_layer"]), list(record["positions"])
    count = len(positions)
    if ids_LTK.ndim != 3 or ids_LTK.shape[:2] != (len(place_LP), count) or len(record["input_ids"]) != count:
        raise TraceError(
            "ids, positions and tokens do not belong together", where=where,
            allowed=f"[{len(place_LP)}, {count}, k] ids, {count} tokens", got=ids_LTK.shape,
        )  # fmt: skip
    if ids_LTK.max() >= place_LP.shape[1]:
        raise TraceError(
            "a place that is not on the map", where=where, allowed=place_LP.shape[1], got=int(ids_LTK.max())
        )
    logical = np.where(ids_LTK >= 0, place_LP[np.arange(len(place_LP))[:, None, None], ids_LTK], -1)
    decoding = int(record["forward_mode"]) == _DECODE
    lengths = [1] * count if decoding else list(record.get("extend_seq_lens") or [count])
    if sum(lengths) != count:
        raise TraceError("the parts of a pass do not add up", where=where, allowed=count, got=sum(lengths))
    starts = np.cumsum([0, *lengths[:-1]])
    owners = (
        requests.decode(positions) if decoding
        else [requests.extend(positions[s], n) for s, n in zip(starts, lengths, strict=True)]
    )  # fmt: skip
    return Record(
        where, np.repeat(np.array(owners, np.int32), lengths), np.array(positions, np.int32),
        np.full(count, int(record.get("forward_pass_id", number)), np.int64),
        np.full(count, DECODE if decoding else PREFILL, np.uint8), logical.transpose(1, 0, 2),
        np.array(record["input_ids"], np.int32),
    )  # fmt: skip


# counts


def _stat(document: Mapping[str, Any], hints: Hints, source: Path) -> Imported:
    counts = np.asarray(document["logical_count"])
    if counts.ndim != 3 or counts.dtype.kind not in "iu":
        raise TraceError(
            "logical_count of another shape", where=source, allowed="whole numbers [passes, layers, experts]",
            got=f"{counts.dtype} {counts.shape}",
        )  # fmt: skip
    used = counts.reshape(len(counts), -1).any(1)
    notes = [
        "the buffer turns round: passes may not be in their order",
        "unused places of the buffer are left out",
    ]
    return _counted(counts[used], hints, source, notes)


def _per_pass(documents: Sequence[Mapping[str, Any]], hints: Hints, source: Path) -> Imported:
    place_LP = _map(documents[0], source)
    experts = int(place_LP.max()) + 1
    sums: dict[int, NDArray[np.int64]] = {}
    for document in documents:
        if not np.array_equal(_map(document, source), place_LP):
            raise TraceError("the ranks' maps differ", where=source, todo="Record with EPLB switched off")
        for record in document["records"]:
            counts_LP = np.asarray(record["global_physical_count"]).astype(np.int64)
            if counts_LP.shape != place_LP.shape:
                raise TraceError(
                    "counts of another shape than the map",
                    where=source,
                    allowed=place_LP.shape,
                    got=counts_LP.shape,
                )
            number = int(record["forward_pass_id"])
            sums[number] = sums.get(number, 0) + counts_LP
    layer_LP = np.broadcast_to(np.arange(len(place_LP))[:, None], place_LP.shape)
    logical = np.zeros((len(sums), len(place_LP), experts), np.int64)
    for row, (_, counts_LP) in enumerate(sorted(sums.items())):
        np.add.at(logical[row], (layer_LP, place_LP), counts_LP)
    ranks = {int(record["rank"]) for document in documents for record in document["records"]}
    return _counted(logical, hints, source, [f"passes of {len(ranks)} ranks were added up"])


def _counted(counts_nLE: NDArray[Any], hints: Hints, source: Path, notes: list[str]) -> Imported:
    """A trace of counts: one row per pass."""
    if not len(counts_nLE) or not counts_nLE.any():
        raise TraceError("there are no counts", where=source)
    used = (
        np.flatnonzero(counts_nLE.any((0, 2))).tolist()
        if hints.moe_layers is None
        else list(hints.moe_layers)
    )
    if max(used) >= counts_nLE.shape[1]:
        raise TraceError(
            "the MoE layers named are not in the source",
            where=source,
            allowed=f"below {counts_nLE.shape[1]}",
            got=used,
        )
    meta = TraceMeta(
        model=hints.model, moe_layers=tuple(used), experts=(counts_nLE.shape[2],) * len(used),
        top_k=(hints.top_k or 1,) * len(used), engine="sglang", routing="counts", columns=("counts",),
    )  # fmt: skip
    number = np.arange(len(counts_nLE))
    rows = Rows(
        request=np.zeros(len(number), np.int32), position=number.astype(np.int32), step=number,
        phase=np.full(len(number), PREFILL, np.uint8),
        experts=np.full((len(number), len(used), max(meta.top_k)), -1, np.int16),
        counts=counts_nLE[:, used].astype(np.int32),
    )  # fmt: skip
    return Imported(meta, iter([rows]), tuple(notes))

"""CSV with the header `request,position,layer,expert,weight`; `weight` may be missing.

One line per token, layer and expert; the lines of a token stand together. Layers are absolute numbers. The
source knows no steps: each token is one of its own, in the order of the file.
"""

import csv
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from locum.errors import TraceError
from locum.trace.columns import DECODE
from locum.trace.importers.base import Hints, Imported, Loader, Record, assemble

_LARGEST = (1 << 31) - 1
_HEADER = ("request", "position", "layer", "expert")


def read(source: Path, hints: Hints, load: Loader) -> Imported:
    """See `base`. Raises `TraceError` naming the line."""
    layers, width, has_weights = _survey(source)
    if hints.moe_layers is not None and list(hints.moe_layers) != layers:
        raise TraceError(
            "the MoE layers named are not those of the source", where=source, allowed=layers,
            got=list(hints.moe_layers), todo="Leave them out: the lines of a CSV say them",
        )  # fmt: skip
    place = {layer: number for number, layer in enumerate(layers)}

    def records() -> Iterator[Record]:
        for step, (token, lines) in enumerate(groupby(_lines(source), key=lambda line: line[1][:2])):
            ids = np.full((1, len(layers), width), -1, np.int64)
            weights = np.full(ids.shape, np.nan, np.float16)
            for _, (_, _, layer, expert, weight) in (held := list(lines)):
                free = int((ids[0, place[layer]] >= 0).sum())
                ids[0, place[layer], free], weights[0, place[layer], free] = expert, weight
            yield Record(
                f"line {held[0][0]}", np.array([token[0]], np.int32), np.array([token[1]], np.int32),
                np.array([step]), np.array([DECODE], np.uint8), ids, None, weights if has_weights else None,
            )  # fmt: skip

    from dataclasses import replace

    notes = ["the source knows no steps: every token counts as one"]
    return assemble(records, replace(hints, moe_layers=tuple(layers)), "csv", source, notes)


def _survey(source: Path) -> tuple[list[int], int, bool]:
    """(layers, most experts of a token in a layer, whether there are weights)."""
    layers: set[int] = set()
    width, weighted, seen = 0, True, set[tuple[int, int]]()
    for token, lines in groupby(_lines(source), key=lambda line: line[1][:2]):
        held = list(lines)
        if token in seen:
            raise TraceError(
                "the lines of a token do not stand together", where=f"{source}, line {held[0][0]}"
            )
        seen.add(token)
        counts: dict[int, int] = {}
        for _, (_, _, layer, _, weight) in held:
            counts[layer] = counts.get(layer, 0) + 1
            weighted &= weight is not None
        layers.update(counts)
        width = max(width, *counts.values())
    if not layers:
        raise TraceError("there are no tokens", where=source)
    return sorted(layers), width, weighted


def _lines(source: Path) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(line number, (request, position, layer, expert, weight or None))."""
    try:
        with open(source, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in _HEADER if name not in (reader.fieldnames or ())]:
                raise TraceError(
                    "columns are missing", where=source, allowed=", ".join(_HEADER),
                    got=f"a first line without {', '.join(missing)}",
                )  # fmt: skip
            for line in reader:
                yield reader.line_num, _numbers(line, f"{source}, line {reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError("the file cannot be read", where=source, got=error) from error


def _numbers(line: dict[str, str], where: str) -> tuple[Any, ...]:
    weight = line.get("weight")
    try:
        numbers = tuple(int(line[name]) for name in _HEADER)
        found = (*numbers, float(weight) if weight else None)
    except (TypeError, ValueError) as error:
        raise TraceError("not a number", where=where, got=error) from error
    for name, number in zip(_HEADER, numbers, strict=True):
        if number > _LARGEST or (number < 0 and name != "expert"):  # an expert below 0 is nobody
            raise TraceError(
                "a number is out of range", where=f"{where}, {name}", allowed=f"0 to {_LARGEST}", got=number
            )
    return found

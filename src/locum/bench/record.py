"""Rows of a benchmark, kept as `locum.bench/1` JSON with a table for people beside it."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from locum.errors import LocumError
from locum.files import write_text

SCHEMA = "locum.bench/1"
_MEND = "Remove it to measure again"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Something that was promised: what, the value wanted, the value got, and whether that is enough."""

    what: str
    wanted: str
    got: str
    met: bool

    def line(self) -> str:
        """For people."""
        return f"{'met' if self.met else 'MISSED'}: {self.what}: {self.got} (wanted {self.wanted})"


@dataclass(frozen=True, slots=True)
class Result:
    """What a piece brings: its rows and its targets."""

    rows: list[Row]
    targets: list[Target]

    @property
    def met(self) -> bool:
        """Every target is met."""
        return all(target.met for target in self.targets)


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Median, least and most of the values there are; None when there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def save(folder: Path, piece: str, result: Result, sources: str) -> None:
    """Write `piece`.json and `piece`.md into `folder`; `sources` identifies the code that was measured."""
    document = {
        "schema": SCHEMA,
        "piece": piece,
        "sources": sources,
        "targets": [asdict(target) for target in result.targets],
        "rows": result.rows,
    }
    write_text(folder / f"{piece}.md", markdown(piece, result))
    write_text(folder / f"{piece}.json", json.dumps(document, indent=1, allow_nan=False) + "\n")


def load(folder: Path, piece: str) -> tuple[Result, str] | None:
    """(result, sources) that `save` wrote; None when there is none.

    Raises `LocumError` for a file of another schema or a damaged one: it is somebody's measurement, so it
    is not overwritten in silence.
    """
    path = folder / f"{piece}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LocumError("a benchmark record cannot be read", where=path, got=error, todo=_MEND) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        got = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise LocumError("a benchmark record of another kind", where=path, allowed=SCHEMA, got=repr(got))
    try:
        targets = [Target(**target) for target in document["targets"]]
        return Result(list(document["rows"]), targets), str(document["sources"])
    except (KeyError, TypeError) as error:
        raise LocumError("a benchmark record is incomplete", where=path, got=error, todo=_MEND) from error


_GIB, _GB = float(1 << 30), 1e9
# column -> (key, divisor, digits); keys with a dot go into nested objects
_COLUMNS: dict[str, tuple[str, float, int]] = {
    "limit GiB": ("memory_limit", _GIB, 2),
    "tokens/s": ("decode_tok_s", 1, 3),
    "simulated": ("simulated_tok_s", 1, 3),
    "clock off by": ("clock_error", 1, 3),
    "bound": ("bound_tok_s", 1, 3),
    "of bound": ("of_bound", 1, 2),
    "hit rate": ("hit_rate", 1, 3),
    "reuse": ("reuse", 1, 3),
    "expected reuse": ("expected.reuse", 1, 3),
    "LRU hits, 1/2": ("hits_half", 1, 3),
    "expected, 1/2": ("expected.hits_half", 1, 3),
    "LRU hits, 1/4": ("hits_quarter", 1, 3),
    "expected, 1/4": ("expected.hits_quarter", 1, 3),
    "LRU hits, 1/8": ("hits_eighth", 1, 3),
    "expected, 1/8": ("expected.hits_eighth", 1, 3),
    "without": ("plain_tok_s", 1, 3),
    "cost": ("cost", 1, 3),
    "M requests/s": ("requests_s", 1e6, 3),
    "write s": ("write_s", 1, 1),
    "measure s": ("analyze_s", 1, 1),
    "first token s": ("ttft_s", 1, 2),
    "stall s": ("stall_s", 1, 2),
    "load s": ("load_s", 1, 2),
    "backbone GB": ("model.backbone_bytes", _GB, 2),
    "experts GB": ("model.expert_bytes", _GB, 2),
    "read GB": ("bytes_read", _GB, 2),
    "peak GiB": ("peak_bytes", _GIB, 2),
    "of it its own": ("peak_anonymous_bytes", _GIB, 2),
    "disk GB/s": ("disk_bytes_s", _GB, 2),
    "memory GB/s": ("memory_bytes_s", _GB, 1),
}


def _figure(row: Mapping[str, Any], key: str, divisor: float, digits: int) -> str:
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return f"{value / divisor:.{digits}f}"
    middle, low, high = (f"{value[name] / divisor:.{digits}f}" for name in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low} to {high})"


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    if row.get("cannot"):
        limit = _figure(row, *_COLUMNS["limit GiB"])
        rest = [limit if name == "limit GiB" else "" for name in columns]
        return [str(row["engine"]), str(row["what"]), *rest, str(row["cannot"])]
    figures = [_figure(row, *_COLUMNS[name]) for name in columns]
    return [str(row["engine"]), str(row["what"]), *figures, str(row.get("note", ""))]


def markdown(piece: str, result: Result) -> str:
    """The table: only columns that some row fills; median (least to most)."""
    used = [name for name in _COLUMNS if any(_figure(row, *_COLUMNS[name]) for row in result.rows)]
    header = ["engine", "what", *used, "remarks"]
    lines = [header, ["---"] * len(header), *(_cells(row, used) for row in result.rows)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
    parts = [f"# {piece}", *_preface(result.rows), table]
    if result.targets:
        parts.append("\n".join(f"- {target.line()}" for target in result.targets))
    commands = dict.fromkeys(str(row["command"]) for row in result.rows if row.get("command"))
    if commands:
        parts.append("Commands:\n\n" + "\n".join(f"    {words}" for words in commands))
    return "\n\n".join(parts) + "\n"


def _preface(rows: Sequence[Row]) -> list[str]:
    for row in rows:
        machine, own = row.get("machine"), row.get("locum")
        if machine and own:
            where = (
                f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / _GIB:.1f} GiB, "
                f"read_ahead_kb {machine['read_ahead_kb']}"
            )
            libraries = ", ".join(f"{name} {version}" for name, version in row.get("versions", {}).items())
            return [
                f"locum {own['version']} ({own['commit']}), {row.get('when', '')}. {where}. {libraries}.",
                "Figures are medians, with the least and the most of the repeats where they differ. The peak "
                "is the kernel's for the whole group, page cache included, which fills what a limit leaves.",
            ]
    return []

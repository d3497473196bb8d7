"""`meta.json`: whose routing a trace holds, and in which shape.

Axes: L MoE layers, E experts, K chosen per token, D distances of prediction, P predicted per distance, S best
scores.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from locum.errors import TraceError
from locum.files import write_json

SCHEMA = "locum.trace/1"
FILE = "meta.json"
Routing = Literal["actual", "derived", "counts"]
"""`actual`: the experts that were used. `derived`: worked out afterwards, as from logits. `counts`: nobody
knows who chose whom, a row is a forward pass, and only the column `counts` says something.
"""
_MAJOR = SCHEMA.rpartition("/")[0]
_LARGEST = 32767  # ids are int16


@dataclass(frozen=True, kw_only=True)
class TraceMeta:
    """What a trace says of itself. Raises `TraceError` for numbers that contradict each other."""

    model: str
    """The model's id or the folder's name."""
    moe_layers: tuple[int, ...]
    """Absolute index of each MoE layer: dense ones count."""
    experts: tuple[int, ...]
    """Routed experts, per MoE layer."""
    top_k: tuple[int, ...]
    """Chosen per token, per MoE layer."""
    family: str = ""
    config_hash: str = ""
    """SHA-256 of `config.json`; empty where the source does not know it."""
    tokenizer_hash: str = ""
    shared_experts: int = 0
    routing: Routing = "actual"
    policy: str = ""
    """What changed the router's choice, by name and hash; empty: nothing did."""
    engine: str = "locum"
    seed: int | None = None
    dtype: str = ""
    distances: int = 0
    predicted: int = 0
    scored: int = 0
    columns: tuple[str, ...] = ()
    """The optional columns that are there."""
    expert_bytes: tuple[int, ...] = ()
    """Stored bytes of one expert, per MoE layer; empty where the source does not know them."""
    slot_bytes: tuple[int, ...] = ()
    """Bytes of the slot one expert takes in memory, per MoE layer; empty as above."""
    backbone_bytes: int | None = None
    """Bytes of the backbone that a token reads from memory; None where the source does not know them."""
    rows: int | None = None
    """None in a trace that was not closed: its parts tell."""
    steps: int | None = None
    requests: int | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        layers = len(self.moe_layers)
        for name in ("experts", "top_k", "expert_bytes", "slot_bytes"):
            figures = getattr(self, name)
            if len(figures) != layers and not (name.endswith("_bytes") and not figures):
                raise _bad(name, f"{layers} numbers, one per MoE layer", len(figures))
            if any(not isinstance(figure, int) or figure < 1 for figure in figures):
                raise _bad(name, "whole numbers from 1 on", figures)
        if not layers or list(self.moe_layers) != sorted(set(self.moe_layers)) or self.moe_layers[0] < 0:
            raise _bad("moe_layers", "at least one, ascending", self.moe_layers)
        for layer, (k, e) in enumerate(zip(self.top_k, self.experts, strict=True)):
            if k > e or e > _LARGEST:
                raise _bad(f"layer {layer}", f"top_k <= experts <= {_LARGEST}", f"top_k {k}, experts {e}")
        if self.routing not in get_args(Routing):
            raise _bad("routing", " or ".join(get_args(Routing)), self.routing)
        self._check_columns()

    def _check_kinds(self) -> None:
        """Numbers are numbers and names are names: a file may say anything."""
        for name in ("model", "family", "config_hash", "tokenizer_hash", "policy", "engine", "dtype"):
            if not isinstance(getattr(self, name), str):
                raise _bad(name, "a text", repr(getattr(self, name)))
        for name in ("shared_experts", "distances", "predicted", "scored"):
            if not _whole(getattr(self, name)):
                raise _bad(name, "a whole number from 0 on", repr(getattr(self, name)))
        for name in ("seed", "backbone_bytes", "rows", "steps", "requests"):
            figure = getattr(self, name)
            if figure is not None and not _whole(figure):
                raise _bad(name, "a whole number from 0 on, or null", repr(figure))
        for name, kind in (("moe_layers", int), ("columns", str)):
            if any(not isinstance(item, kind) for item in getattr(self, name)):
                raise _bad(name, "whole numbers" if kind is int else "names", list(getattr(self, name)))

    def _check_columns(self) -> None:
        from locum.trace.columns import BY_NAME, OPTIONAL

        if (self.routing == "counts") != ("counts" in self.columns):
            raise _bad("routing", "`counts` with the column of that name, and only then", self.routing)
        if unknown := sorted(set(self.columns) - set(OPTIONAL)):
            raise _bad("columns", ", ".join(OPTIONAL), ", ".join(unknown))
        names = {"D": "distances", "P": "predicted", "S": "scored"}
        for column in self.columns:
            for axis in BY_NAME[column].axes:
                if not self.sizes[axis]:
                    raise _bad(names[axis], f"at least 1, because there is a column {column}", 0)

    @property
    def sizes(self) -> dict[str, int]:
        """The length of each axis in the columns: the largest of all layers."""
        return {
            "L": len(self.moe_layers), "K": max(self.top_k), "E": max(self.experts),
            "D": self.distances, "P": self.predicted, "S": self.scored,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """As it stands in `meta.json`; equal numbers for all layers become one."""
        document = {"schema": SCHEMA, "locum": metadata.version("locum")} | asdict(self)
        for name in ("experts", "top_k", "expert_bytes", "slot_bytes"):
            figures = getattr(self, name)
            document[name] = figures[0] if len(set(figures)) == 1 else list(figures)
        return document | {"moe_layers": list(self.moe_layers), "columns": list(self.columns)}

    @classmethod
    def from_json(cls, document: Any, where: object) -> "TraceMeta":
        """Raises `TraceError` for another schema, or a field that is missing or of the wrong kind."""
        if not isinstance(document, Mapping):
            raise TraceError("not a trace", where=where, allowed="a JSON object", got=type(document).__name__)
        schema = document.get("schema")
        if not isinstance(schema, str) or schema != SCHEMA:
            newer = isinstance(schema, str) and schema.startswith(f"{_MAJOR}/")
            todo = "It was written by another version of locum: use that one" if newer else None
            raise TraceError(
                "not a trace of this version", where=where, allowed=SCHEMA, got=schema, todo=todo
            )
        try:
            layers = len(document["moe_layers"])
            given = {f.name: document[f.name] for f in fields(cls) if f.name in document}
            for name in ("experts", "top_k", "expert_bytes", "slot_bytes"):
                if isinstance(given.get(name), int):
                    given[name] = [given[name]] * layers
            for name in ("moe_layers", "experts", "top_k", "expert_bytes", "slot_bytes", "columns"):
                if name in given:
                    if not isinstance(given[name], list):
                        raise TypeError(f"{name} is {given[name]!r}")
                    given[name] = tuple(given[name])
            return cls(**given)
        except TraceError as error:
            raise TraceError(
                error.what, where=f"{where}, {error.where}", allowed=error.allowed, got=error.got
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError("a field is missing or of the wrong kind", where=where, got=error) from error

    @classmethod
    def read(cls, folder: Path) -> "TraceMeta":
        """The meta of a trace folder. Raises `TraceError`."""
        path = folder / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            todo = "A trace is a folder made by `locum trace` or `locum run --trace`"
            raise TraceError("no trace", where=folder, allowed=f"a folder with {FILE}", todo=todo) from None
        except (OSError, ValueError) as error:
            raise TraceError("the trace's meta cannot be read", where=path, got=error) from error
        return cls.from_json(document, path)

    def write(self, folder: Path) -> None:
        """Write `meta.json`, whole or not at all."""
        write_json(folder / FILE, self.to_json(), indent=1)

    def closed(self, rows: int, steps: int, requests: int) -> "TraceMeta":
        """This meta with the counts of a finished recording."""
        return replace(self, rows=rows, steps=steps, requests=requests)


def _whole(figure: object) -> bool:
    return isinstance(figure, int) and figure >= 0


def _bad(name: str, allowed: object, got: object) -> TraceError:
    return TraceError("a trace's meta contradicts itself", where=name, allowed=allowed, got=got)

"""Traces from what other engines write. One file per source; the contract is in `base.py`.

Only documented layouts are read, and nothing that could run code: torch's own files through its loader of
plain tensors, arrays without pickle.
"""

import importlib
from pathlib import Path

from locum.errors import UsageError
from locum.trace.importers.base import Hints, Imported, Loader

IMPORTERS = {
    "csv": "locum.trace.importers.csv_rows",
    "routed-experts": "locum.trace.importers.routed_experts",
    "sglang-recorder": "locum.trace.importers.sglang_recorder",
}
"""Sources by name, and the module whose `read` knows them."""
_BY_SUFFIX = {".csv": "csv", ".jsonl": "routed-experts", ".json": "routed-experts", ".pt": "sglang-recorder"}

__all__ = ["IMPORTERS", "Hints", "Imported", "Loader", "read"]


def read(source: Path, hints: Hints, load: Loader, kind: str | None = None) -> Imported:
    """Import `source`, of the `kind` that its ending says when None.

    Raises `UsageError` for an unknown kind, `TraceError` for what cannot be read.
    """
    kind = kind or _BY_SUFFIX.get(source.suffix)
    if kind not in IMPORTERS:
        raise UsageError(
            "this kind of source is not known",
            where=source,
            allowed=", ".join(IMPORTERS),
            got=kind or ("a folder" if source.is_dir() else source.suffix or "a name without an ending"),
            todo="Say what it is: locum trace import --from",
        )
    found: Imported = importlib.import_module(IMPORTERS[kind]).read(source, hints, load)
    return found

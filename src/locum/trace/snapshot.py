"""`snapshot.json`: the engine's setting, and its cache as it was when a recording began.

With it a replay of the trace decides what the engine decided, also where that had run before.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from locum.errors import TraceError
from locum.files import write_json

SCHEMA = "locum.snapshot/1"
FILE = "snapshot.json"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The engine's setting, and what its Ledger knew (`Ledger.state`); None: nothing, the cache was empty."""

    eviction: str
    prefetch: str
    wave: str
    arena_bytes: int
    ledger: Mapping[str, Any] | None = None
    eviction_params: Mapping[str, Any] = field(default_factory=dict)
    prefetch_params: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into a trace's folder, whole or not at all."""
        write_json(folder / FILE, {"schema": SCHEMA} | asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Snapshot | None":
        """The snapshot of a trace; None where no engine of ours recorded it. Raises `TraceError`."""
        path = folder / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise TraceError("the snapshot cannot be read", where=path, got=error) from error
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema != SCHEMA:
            raise TraceError("not a snapshot of this version", where=path, allowed=SCHEMA, got=schema)
        try:
            return cls(**{f.name: document[f.name] for f in fields(cls)})
        except KeyError as error:
            raise TraceError("a field is missing", where=path, got=error) from error

"""Files are written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write `path` under a temporary name beside it, then rename: readers see the old file, the new or none.

    Missing folders are made. Raises `OSError`; then nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(temporary, 0o644)  # temporary files are private, these are not
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, document: Any, *, indent: int | None = None) -> None:
    """`write_text` of a JSON document; without `indent` as short as can be."""
    separators = (",", ":") if indent is None else None
    write_text(path, json.dumps(document, indent=indent, separators=separators) + "\n")

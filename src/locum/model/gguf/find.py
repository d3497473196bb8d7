"""Which files make up the GGUF model at a path: one, or parts named `name-00001-of-00003.gguf`."""

import re
from pathlib import Path

from locum.errors import CheckpointError

_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


def gguf_files(path: Path) -> list[Path]:
    """The files of the GGUF model at `path`, in order; empty where `path` is no GGUF model.

    `path`: a `.gguf` file, any part of a split one, or a folder that holds one model of that kind and no
    safetensors. Raises `CheckpointError` for a folder with several models, and for parts that are missing.
    """
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if not found or any(path.glob("*.safetensors")) or (path / "model.safetensors.index.json").exists():
            return []
        models = {_first(file) for file in found}
        if len(models) > 1:
            raise CheckpointError(
                "several GGUF models lie in one folder",
                where=path,
                allowed="one",
                got=", ".join(sorted(file.name for file in models)[:5]),
                todo="Give the path of the file",
            )
        path = models.pop()
    elif path.suffix != ".gguf" or not path.is_file():
        return []
    return _parts(path)


def _first(file: Path) -> Path:
    """The first part of the model that `file` belongs to."""
    match = _PART.fullmatch(file.name)
    return file.with_name(f"{match['stem']}-00001-of-{match['count']}.gguf") if match else file


def _parts(path: Path) -> list[Path]:
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    parts = [
        path.with_name(f"{match['stem']}-{number + 1:05}-of-{match['count']}.gguf") for number in range(count)
    ]
    missing = [part.name for part in parts if not part.is_file()]
    if missing or not parts:
        raise CheckpointError(
            "parts of a split GGUF are missing",
            where=path.parent,
            allowed=f"{count} parts",
            got=f"no {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            todo="Download the model again; finished files are kept",
        )
    return parts

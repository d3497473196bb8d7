"""Looking at a model on the hub without downloading its weights.

Of each weight file only the header is fetched. From it a folder is made that looks like the checkpoint:
config, tokenizer, and weight files of full length that hold the header and then nothing (sparse, so they take
no room). It serves to describe the model and is kept away from the hub's cache, lest somebody runs it.
"""

import fnmatch
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from locum.model.checkpoint import INDEX
from locum.model.hub import SMALL, hub_errors, resolve, split_id, weight_names

_ROOM = 8  # what a header's length takes


def glance(model: str | Path, cache: Path) -> Path:
    """A folder to describe `model` by: its own when it is local or downloaded already, else one in `cache`.

    Raises as `hub.resolve` does.
    """
    if (asked := split_id(model)) is None:
        return resolve(model)
    from huggingface_hub import HfApi, snapshot_download

    repository, revision = asked
    with hub_errors(repository, revision):
        small = Path(snapshot_download(repository, revision=revision, allow_patterns=list(SMALL)))
        wanted = weight_names(small)
        if _is_downloaded(small, wanted):
            return small
        target = cache / f"{repository.replace('/', '--')}@{small.name}"
        if target.is_dir():
            return target
        files = HfApi().list_repo_files(repository, revision=small.name)
        names = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in wanted)]
        headers = {name: _header(repository, name, small.name) for name in names}
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".glance-") as apart:
        made = Path(apart) / "model"
        shutil.copytree(small, made, ignore=shutil.ignore_patterns("*.safetensors"))
        for name, (header, data) in headers.items():
            with (made / name).open("wb") as out:
                out.write(len(header).to_bytes(_ROOM, "little") + header)
                out.truncate(_ROOM + len(header) + data)
        if not target.is_dir():  # another process may have been faster
            made.rename(target)
    return target


def _is_downloaded(folder: Path, wanted: list[str]) -> bool:
    """Every file of the index is there; without an index, any weight file."""
    quantifier = all if (folder / INDEX).exists() else any
    return quantifier(any(folder.glob(pattern)) for pattern in wanted)


def _header(repository: str, name: str, revision: str) -> tuple[bytes, int]:
    """The header of a weight file, as this library writes it, and the length of its data."""
    from huggingface_hub import HfApi

    found = HfApi().parse_safetensors_file_metadata(repository, name, revision=revision)
    entries: dict[str, Any] = {
        tensor: {"dtype": info.dtype, "shape": info.shape, "data_offsets": list(info.data_offsets)}
        for tensor, info in found.tensors.items()
    }
    if found.metadata:
        entries["__metadata__"] = found.metadata
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8), max(
        (info.data_offsets[1] for info in found.tensors.values()), default=0
    )

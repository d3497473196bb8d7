"""A model folder in Hugging Face format, or a GGUF: its config, weight files and the table of its tensors.

Nothing here reads a weight, loads a pickle or runs code that came with the model.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from locum.errors import CheckpointError
from locum.model.gguf import gguf_files, read_gguf
from locum.model.header import LIMIT, Header, TensorInfo, read_header, unique_keys
from locum.model.packed import BACKBONE, Packed, read_packed

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One weight file: `name` inside the folder, `size` in bytes, modification time in ns."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files, read by `Checkpoint.open`."""

    folder: Path
    config: Mapping[str, Any]
    """`config.json` as parsed; of a GGUF, what its metadata says in those words."""
    generation_config: Mapping[str, Any] | None
    """`generation_config.json` as parsed, None where there is none."""
    files: tuple[ShardFile, ...]
    """The weight files in order of name."""
    tensors: Mapping[str, TensorInfo]
    """Every stored tensor by its name in the files; of a GGUF, by transformers' name."""
    metadata: Mapping[str, str]
    """`__metadata__` of the weight files, merged in order of file name."""
    packed: Packed | None = None
    """The index of a packed folder, whose experts are not among `tensors`."""

    @classmethod
    def open(cls, folder: str | Path) -> "Checkpoint":
        """Read the config and every header of a folder, of a GGUF file, or of a folder that holds one.

        Raises `CheckpointError` when anything is missing, damaged, or contradicts the index; for a GGUF also
        what `gguf.read_gguf` raises.
        """
        if files := gguf_files(Path(folder)):
            return cls._open_gguf(files)
        small = cls.configured(folder)
        folder = small.folder
        packed = read_packed(folder)
        weight_map = _weight_map(folder) if packed is None else None
        if packed is not None:
            names, weight_map = [BACKBONE], dict.fromkeys(packed.checksums, BACKBONE)
        else:
            names = sorted(set(weight_map.values())) if weight_map is not None else _without_index(folder)
        headers = [read_header(folder / name) for name in names]
        tensors = _merge(folder, headers)
        if weight_map is not None:
            _compare(folder, weight_map, tensors)
        return small.with_weights(
            (
                *(ShardFile(header.file, header.size, header.mtime_ns) for header in headers),
                *_packed_files(folder, packed),
            ),
            tensors,
            metadata={key: value for header in headers for key, value in header.metadata.items()},
            packed=packed,
        )

    @classmethod
    def configured(cls, folder: str | Path) -> "Checkpoint":
        """A folder without its weights. Raises `CheckpointError` when its config is missing or damaged."""
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError("no such model folder", where=folder)
        config = read_json(folder / "config.json")
        if config is None:
            raise CheckpointError(
                "there is no config.json",
                where=folder,
                todo="Point at a folder in Hugging Face format, the one that holds config.json",
            )
        generation = read_json(folder / "generation_config.json")
        return cls(folder, config, generation, files=(), tensors={}, metadata={})

    def with_weights(
        self, files: tuple[ShardFile, ...], tensors: Mapping[str, TensorInfo], **known: Any
    ) -> "Checkpoint":
        """This folder with these weights; `known`: further fields."""
        return replace(self, files=files, tensors=tensors, **known)

    @classmethod
    def _open_gguf(cls, files: list[Path]) -> "Checkpoint":
        found = read_gguf(files)
        return cls(
            folder=files[0].parent,
            config=found.config,
            generation_config=found.generation_config,
            files=tuple(ShardFile(header.file, header.size, header.mtime_ns) for header in found.headers),
            tensors=found.tensors,
            metadata={},
        )

    @property
    def is_gguf(self) -> bool:
        """Whether the weights and all else lie in GGUF files."""
        return bool(self.files) and self.files[0].name.endswith(".gguf")

    @property
    def config_path(self) -> Path:
        """The file that the config comes from."""
        return self.folder / (self.files[0].name if self.is_gguf else "config.json")

    @property
    def config_hash(self) -> str:
        """SHA-256 of the config in canonical form: the same for any order of keys and any spacing."""
        text = json.dumps(self.config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def identity(self) -> str:
        """SHA-256 of the config and the file table (name, size, mtime): changes whenever a file does."""
        table = [[file.name, file.size, file.mtime_ns] for file in self.files]
        digest = self.packed.digest if self.packed else ""
        return hashlib.sha256(f"{self.config_hash}{json.dumps(table)}{digest}".encode()).hexdigest()

    def path(self, tensor: str) -> Path:
        """The file that holds `tensor`."""
        return self.folder / self.tensors[tensor].file


def _packed_files(folder: Path, packed: Packed | None) -> list[ShardFile]:
    """The files with experts."""
    names = [name for name, _ in packed.files] if packed else []
    found = [(name, (folder / name).stat()) for name in names]
    return [ShardFile(name, status.st_size, status.st_mtime_ns) for name, status in found]


def read_json(path: Path, *, unique: bool = False) -> dict[str, Any] | None:
    """A JSON object from a file; None when there is no such file. `unique` refuses keys given twice.

    Raises `CheckpointError` when it cannot be read or is not one object.
    """
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise CheckpointError(
                "absurdly long file", where=path, allowed=f"at most {LIMIT} bytes", got=f"{size} bytes"
            )
        document = json.loads(path.read_bytes(), object_pairs_hook=unique_keys if unique else None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError("a file cannot be read", where=path, got=error.strerror or error) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError("not valid JSON", where=path, allowed="one JSON object", got=error) from error
    if not isinstance(document, dict):
        raise CheckpointError(
            "not an object", where=path, allowed="a JSON object", got=type(document).__name__
        )
    return document


def _weight_map(folder: Path) -> dict[str, str] | None:
    """Tensor name to file name as the index says; None where transformers would not use an index."""
    if (folder / SINGLE).is_file():  # transformers, too, prefers the single file
        return None
    path = folder / INDEX
    document = read_json(path, unique=True)
    if document is None:
        return None
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        got = type(weight_map).__name__ if weight_map != {} else "an empty one"
        raise CheckpointError("the index has no weight_map", where=path, allowed="an object", got=got)
    for name in set(map(str, weight_map.values())):
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                "the index names something that is not a weight file of this folder",
                where=path,
                allowed="names ending in .safetensors, without folders (pickles are never loaded)",
                got=repr(name),
            )
    missing = sorted(name for name in set(weight_map.values()) if not (folder / name).exists())
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise CheckpointError(
            "weight files are missing",
            where=folder,
            allowed=f"the {len(set(weight_map.values()))} files that {INDEX} names",
            got=f"no {shown}",
            todo="Download the model again; finished files are kept",
        )
    return weight_map


def _without_index(folder: Path) -> list[str]:
    if (folder / SINGLE).is_file():
        return [SINGLE]
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if names:
        return names
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(
            "the weights are stored as a pickle",
            where=folder,
            allowed="*.safetensors",
            got=pickles[0],
            todo="A pickle can run any code when loaded, so locum never loads one; convert it to safetensors",
        )
    raise CheckpointError("there are no weight files", where=folder, allowed="*.safetensors", got="none")


def _merge(folder: Path, headers: list[Header]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for header in headers:
        if not tensors.keys().isdisjoint(header.tensors):
            name = next(name for name in header.tensors if name in tensors)
            raise CheckpointError(
                f"tensor {name!r} is stored twice",
                where=folder,
                allowed="once",
                got=f"in {tensors[name].file} and in {header.file}",
            )
        tensors.update(header.tensors)
    return tensors


def _compare(folder: Path, weight_map: dict[str, str], tensors: dict[str, TensorInfo]) -> None:
    """The index and the headers agree. A tensor that the index leaves out is taken, as transformers does."""
    for name, file in weight_map.items():
        info = tensors.get(name)
        if info is None or info.file != file:
            raise CheckpointError(
                f"the index and the weight files disagree about tensor {name!r}",
                where=folder,
                allowed=f"the tensor in {file}, as the index says",
                got="no such tensor in any file" if info is None else f"it is in {info.file}",
                todo="Download the model again",
            )

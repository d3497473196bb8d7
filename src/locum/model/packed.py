"""A packed folder (`locum.pack/2`): each expert in one aligned run of a file, with its checksum.

`index.json` says where everything lies; `backbone.safetensors` holds the rest of the model under the names of
the checkpoint it came from, with a checksum of each tensor in the index. The folder runs by itself.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.errors import CheckpointError
from locum.model.header import unique_keys
from locum.model.image import Piece, TensorView, exactly, view_of

SCHEMA = "locum.pack/2"
_OURS = "locum.pack/"
INDEX = "index.json"
BACKBONE = "backbone.safetensors"
PLAIN = ("bf16", "fp16", "fp32", "fp64")
"""Precisions that are no quantisation."""
PAGE = 4096
"""Experts start at multiples of this many bytes: direct I/O reads whole blocks."""
ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int8": 1, "uint8": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
"""Bytes of one number, by torch's name of the dtype."""

_FILE = re.compile(r"experts-\d{5}\.bin")
_XXH3 = re.compile(r"[0-9a-f]{16}")
_REMEDY = "Pack the model again, or copy the folder again"


@dataclass(frozen=True, slots=True)
class PackedExpert:
    """Where one expert lies: file number, first byte (a multiple of 4096), bytes, xxh3-64 of them."""

    file: int
    offset: int
    length: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """The routed experts of one MoE layer; all share one image."""

    module: str
    """As transformers calls it."""
    origin: str
    """As the files call it that were packed."""
    layer: int
    image_bytes: int
    tensors: tuple[TensorView, ...]
    experts: tuple[PackedExpert, ...]

    @property
    def params(self) -> int:
        """Parameters of one expert."""
        return sum(math.prod(view.shape) for view in self.tensors)


@dataclass(frozen=True, slots=True)
class Packed:
    """The index of a packed folder."""

    precision: str
    """Of the experts: `bf16`, `int4-g64`, `mxfp4`..."""
    backbone: str
    """Of the backbone's linear layers."""
    source: Mapping[str, Any]
    """What was packed: `model`, `config_hash`, `quantization`."""
    files: tuple[tuple[str, int], ...]
    """(name, bytes) of the files with experts."""
    layers: tuple[PackedLayer, ...]
    checksums: Mapping[str, str]
    """xxh3-64 of the backbone's tensors, by their names in the file; see `store.checks.backbone_checksum`."""
    lossless: bool
    """Whether the numbers are those of the model that was packed first."""
    digest: str
    """See `index_digest`."""


def read_packed(folder: Path) -> Packed | None:
    """The index of a packed folder; None where `folder` is none: others, too, call a file `index.json`.

    Raises `CheckpointError` when the index is damaged, of another format, or says what cannot be.
    """
    path = folder / INDEX
    try:
        text = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError("a file cannot be read", where=path, got=error.strerror or error) from error
    try:
        document: Any = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        if _OURS.encode() not in text:
            return None
        raise CheckpointError("not valid JSON", where=path, got=error, todo=_REMEDY) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str) or not schema.startswith(_OURS):
        return None
    if schema != SCHEMA:
        raise CheckpointError(
            "another format of packed folders",
            where=path,
            allowed=SCHEMA,
            got=schema,
            todo="Pack the model again",
        )
    digest = document.pop("sha256", None)
    if digest != index_digest(document):
        raise CheckpointError("the index is damaged", where=path, got="another checksum", todo=_REMEDY)
    try:
        packed = _packed(document, digest)
        _check(packed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("the index is damaged", where=path, got=error, todo=_REMEDY) from error
    for name, size in packed.files:
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            got = "no such file" if found is None else f"{found} bytes"
            raise CheckpointError(
                "a file with experts is not whole",
                where=folder / name,
                allowed=f"{size} bytes",
                got=got,
                todo=_REMEDY,
            )
    return packed


def index_digest(document: Mapping[str, Any]) -> str:
    """The checksum that an index carries as `sha256`: of all the rest of it, in canonical form."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _packed(document: dict[str, Any], digest: str) -> Packed:
    precision, source = document["precision"], document["source"]
    if not isinstance(source, dict):
        raise TypeError("source is no object")
    return Packed(
        precision=_printable(precision["experts"]),
        backbone=_printable(precision["backbone"]),
        source=source,
        files=tuple((exactly(str, file["name"]), exactly(int, file["bytes"])) for file in document["files"]),
        layers=tuple(_layer(layer) for layer in document["layers"]),
        checksums={name: exactly(str, digest) for name, digest in document["backbone"].items()},
        lossless=exactly(bool, document["lossless"]),
        digest=digest,
    )


def _layer(values: dict[str, Any]) -> PackedLayer:
    return PackedLayer(
        module=_printable(values["module"]),
        origin=_printable(values["origin"]),
        layer=exactly(int, values["layer"]),
        image_bytes=exactly(int, values["image_bytes"]),
        tensors=tuple(view_of(view) for view in values["tensors"]),
        experts=tuple(
            PackedExpert(
                file=exactly(int, expert["file"]),
                offset=exactly(int, expert["offset"]),
                length=exactly(int, expert["length"]),
                xxh3=exactly(str, expert["xxh3"]),
            )
            for expert in values["experts"]
        ),
    )


def _printable(value: Any) -> str:
    """A text that is shown. Raises `TypeError`, and `ValueError` for codes that a terminal would obey."""
    text = exactly(str, value)
    if not text.isprintable():
        raise ValueError(f"{text!a} cannot be printed")
    return text


def _check(packed: Packed) -> None:
    """Everything lies where it can. Raises `ValueError` saying what does not."""
    if not packed.layers or not all(layer.experts for layer in packed.layers):
        raise ValueError("a layer without experts")
    _once("file", [name for name, _ in packed.files])
    _once("layer", [layer.module for layer in packed.layers])
    _once("expert's place", [(e.file, e.offset) for layer in packed.layers for e in layer.experts])
    for name, _ in packed.files:
        if not _FILE.fullmatch(name):
            raise ValueError(f"{name!r} is no file of a packed folder")
    for layer in packed.layers:
        _once(f"tensor of {layer.module}", [view.name for view in layer.tensors])
        for view in layer.tensors:
            for matrix in view.matrices:
                _once(f"piece of {view.name}", [piece.role for piece in matrix.pieces])
                for piece in matrix.pieces:
                    _check_piece(layer, piece)
        for number, expert in enumerate(layer.experts):
            inside = 0 <= expert.file < len(packed.files) and expert.offset >= 0
            if (
                not inside
                or expert.offset % PAGE
                or expert.length != layer.image_bytes
                or expert.offset + expert.length > packed.files[expert.file][1]
                or not _XXH3.fullmatch(expert.xxh3)
            ):
                raise ValueError(f"expert {number} of {layer.module} cannot lie at {expert}")


def _once(what: str, names: Sequence[object]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the same {what} twice: {twice}")


def _check_piece(layer: PackedLayer, piece: Piece) -> None:
    size = ITEM_BYTES.get(piece.dtype)
    if size is None or min(piece.shape, default=1) < 0 or piece.at < 0 or piece.at % size:
        raise ValueError(f"{layer.module} cannot have {piece}")
    if piece.at + size * piece.elements > layer.image_bytes:
        raise ValueError(f"{piece} lies outside the {layer.image_bytes} bytes of {layer.module}")

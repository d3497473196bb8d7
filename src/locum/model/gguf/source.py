"""One GGUF model, whole: its files read, its tensors under transformers' names, its config made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.errors import CheckpointError, NotMoEError
from locum.model.gguf.architectures import config_of
from locum.model.gguf.metadata import Metadata, shortest
from locum.model.gguf.names import renamed
from locum.model.gguf.reader import GgufHeader, read_gguf_header, read_gguf_metadata
from locum.model.header import TensorInfo

_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
_ENDS = ("eos", "eot", "eom")


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What the files of one model say."""

    headers: tuple[GgufHeader, ...]
    metadata: Mapping[str, Any]
    """Of the first file."""
    tensors: Mapping[str, TensorInfo]
    """By transformers' names; see `names`."""
    config: Mapping[str, Any]
    """As config.json would have it."""
    generation_config: Mapping[str, Any]
    """As generation_config.json would have it."""


def read_gguf(files: Sequence[Path]) -> GgufModel:
    """Read the headers of a model's files, in order.

    Raises `CheckpointError` for a file that is damaged or parts that do not belong together, `NotMoEError`
    for a dense model, `UnsupportedError` for an architecture or a tensor that locum does not know.
    """
    where = files[0]
    headers = tuple(read_gguf_header(file) for file in files)
    tensors = _merged(headers, where)
    metadata = headers[0].metadata
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise CheckpointError(
            "the metadata lacks general.architecture", where=where, got=repr(architecture)[:80]
        )
    read = Metadata(architecture, metadata, tensors, where)
    if read.count("expert_count", 0, least=0) < 1:
        raise NotMoEError(
            "a dense model: it has no routed experts to keep on disk",
            where=where,
            allowed="a Mixture-of-Experts model",
            got=f"the architecture {architecture:.80} without an expert_count",
            todo="Run it with llama.cpp or any other engine",
        )
    config, known = config_of(read)
    return GgufModel(
        headers=headers,
        metadata=metadata,
        tensors=renamed(tensors, known.block, where, known.whole, known.layers),
        config=config,
        generation_config=_generation(metadata),
    )


def _merged(headers: Sequence[GgufHeader], where: Path) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for number, header in enumerate(headers):
        said = header.metadata.get("split.no", 0), header.metadata.get("split.count", 1)
        if len(headers) > 1 and said != (number, len(headers)):
            raise CheckpointError(
                "a part of a split GGUF is not what its name says",
                where=where.with_name(header.file),
                allowed=f"part {number} of {len(headers)}",
                got=f"part {said[0]} of {said[1]}",
            )
        if len(headers) == 1 and said[1] not in (0, 1):
            raise CheckpointError(
                "one part of a split GGUF",
                where=where,
                allowed=f"{said[1]} files named ...-00001-of-0000N.gguf",
                got="one of another name",
            )
        if not tensors.keys().isdisjoint(header.tensors):
            name = next(name for name in header.tensors if name in tensors)
            raise CheckpointError(
                f"tensor {name!r} is stored twice",
                where=where.parent,
                got=f"in {tensors[name].file} and in {header.file}",
            )
        tensors.update(header.tensors)
    return tensors


def gguf_generation(files: Sequence[Path]) -> dict[str, Any]:
    """What generation_config.json would say for a model of these files."""
    return _generation(read_gguf_metadata(files[0]))


def _generation(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """End tokens, and how the file wants to be sampled from where it says so."""
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS]
    found: dict[str, Any] = {"eos_token_id": list(dict.fromkeys(end for end in ends if end is not None))}
    for key, name in _SAMPLING.items():
        value = metadata.get(f"general.sampling.{key}")
        if isinstance(value, float):
            value = shortest(value)
        if value is not None:
            found[name] = value
    if len(found) > 1:
        found["do_sample"] = True
    return found

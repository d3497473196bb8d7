"""Quantised checkpoints, one file per scheme: which stored tensors make up which tensor of the model.

Nothing is asked of the config but what names and shapes leave open, so a checkpoint that mixes schemes is
read like any other.
"""

import math
from collections.abc import Iterable

from locum.errors import UnsupportedError
from locum.model.checkpoint import Checkpoint
from locum.model.header import TensorInfo
from locum.model.image import RAW
from locum.model.quant import FLOATS, packed_bits, parameters
from locum.model.schemes import awq, fp8, gguf, gptq, grouped, mxfp4, packed
from locum.model.schemes.base import Declared, Scheme, Stored

__all__ = ["SCHEMES", "Scheme", "Stored", "declared", "parameter_counts", "stored_tensors", "unreadable"]

SCHEMES: tuple[Scheme, ...] = (
    gguf.HALVES,
    *gguf.JOINED,
    gguf.SCHEME,
    grouped.SCHEME,
    packed.SCHEME,
    packed.BYTES,
    awq.SCHEME,
    gptq.SCHEME,
    mxfp4.SCHEME,
    fp8.SCHEME,
    fp8.SCALED,
)


def declared(checkpoint: Checkpoint) -> Declared:
    """What the config says about quantisation; empty where it says nothing."""
    whole = checkpoint.config
    text = whole.get("text_config")
    for config in (whole, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(found := config.get(key), dict):
                return found
    return {}


def stored_tensors(checkpoint: Checkpoint) -> dict[str, Stored]:
    """Every tensor of the model by its name, those that are not quantised included.

    Raises `CheckpointError` where pieces are missing or do not fit, `UnsupportedError` for a variant that
    locum does not read.
    """
    tensors, says = checkpoint.tensors, declared(checkpoint)
    found: dict[str, Stored] = {}
    taken: set[str] = set()
    for scheme in SCHEMES:
        for name in tensors:
            if name in taken or not name.endswith(scheme.main) or not scheme.matches(name, tensors, says):
                continue
            stem = name.removesuffix(scheme.main)
            stored = scheme.read(name, stem + scheme.base, tensors, says)
            found[stored.name] = stored
            taken.add(name)
            taken.update(stem + side for side in scheme.sides)
    for name, info in tensors.items():
        if name not in taken:
            found[name] = Stored(name, info.shape, RAW, (("weight", info),))
    return found


def parameter_counts(checkpoint: Checkpoint, quantization: str | None) -> dict[str, int]:
    """Parameters of the model that each stored tensor stands for, 0 for what belongs to another.

    `quantization` as `quant.quantization_of` names it: where locum does not read it, its numbers are an
    estimate. Raises `CheckpointError` where pieces are missing or do not fit.
    """
    if checkpoint.packed is not None:
        quantization = None  # whatever is not made of pieces is as it looks
    tensors, bits = checkpoint.tensors, packed_bits(checkpoint.config)
    counts = {name: parameters(name, info, quantization, bits) for name, info in tensors.items()}
    if quantization is None and checkpoint.packed is None:
        return counts
    try:
        made = [stored for stored in stored_tensors(checkpoint).values() if stored.form != RAW]
    except UnsupportedError:
        return counts
    names = {_place(info): name for name, info in tensors.items()}
    for stored in made:
        for number, (_, info) in enumerate(stored.pieces):
            counts[names[_place(info)]] = 0 if number else math.prod(stored.shape)
    return counts


def _place(info: TensorInfo) -> tuple[str, int, int]:
    return info.file, info.offset, info.length


def unreadable(checkpoint: Checkpoint, routed: Iterable[str]) -> str | None:
    """Why the tensors `routed` (names in the files) of a quantised checkpoint cannot be read, else None.

    Raises `CheckpointError` where pieces are missing or do not fit.
    """
    try:
        stored = stored_tensors(checkpoint)
    except UnsupportedError as error:
        return f"{error.what}: {error.got}, where locum reads {error.allowed}"
    raw = [stored[name] for name in routed if name in stored and stored[name].form == RAW]
    odd = next((tensor for tensor in raw if tensor.pieces[0][1].dtype not in FLOATS), None)
    if odd is None and (left := _unscaled(stored)) is not None:
        return f"{left} is quantised with scales in a way that locum does not read"
    if odd is None:
        return None
    says = declared(checkpoint)
    form = says.get("format") or says.get("checkpoint_format") or says.get("quant_method")
    return f"the experts are stored as {odd.pieces[0][1].dtype} in a way ({form}) that locum does not read"


def _unscaled(stored: dict[str, Stored]) -> str | None:
    """A tensor that would be taken as it is although its scale lies beside it."""
    names = (name for name, tensor in stored.items() if tensor.form == RAW and f"{name}_scale" in stored)
    return next(names, None)

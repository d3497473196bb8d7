"""GGUF: numbers in ggml's blocks, and what llama.cpp's converter did to some tensors beside.

A tensor is one piece, `blocks`: [..., rows, bytes of a row]. DeepSeek's `kv_b_proj` is two in newer files,
the keys' half transposed. What else has to be undone is a placement, which the config made from the metadata
names (`quantization_config.placements`, see `model.gguf.architectures`). `joined` is one this file knows:
gate and up lie apart where transformers has one tensor, and the numbers of both go through what follows it.
"""

from typing import NamedTuple

from locum.errors import CheckpointError, UnsupportedError
from locum.model.gguf import BLOCKS, READABLE
from locum.model.header import TensorInfo
from locum.model.quant import FLOATS
from locum.model.schemes.base import Declared, Scheme, Stored, Tensors
from locum.model.schemes.pieces import piece

_KEYS, _VALUES = ".keys.weight", ".values.weight"


def _is_gguf(name: str, tensors: Tensors, declared: Declared) -> bool:
    return declared.get("quant_method") == "gguf"


def _read(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    info = tensors[name]
    form, role = ("raw", "weight") if info.dtype in FLOATS else (f"gguf-{info.dtype}", "blocks")
    placements = _placements(name, declared)
    shape = _after(placements, info.shape)
    return Stored(base, shape, "+".join((form, *placements)), ((role, _bytes(name, info)),))


def _placements(name: str, declared: Declared) -> list[str]:
    known = declared["placements"]
    return next((known[end].split("+") for end in known if name.endswith(end)), [])


def _after(placements: list[str], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the placements make of `shape`."""
    return (*shape[:-2], shape[-1], shape[-2]) if "transposed" in placements else shape


def _is_joined(name: str, tensors: Tensors, declared: Declared) -> bool:
    return _is_gguf(name, tensors, declared) and _placements(name, declared)[:1] == ["joined"]


class _Pair(NamedTuple):
    """Two stored tensors that follow one another in one of the model's, along its side `rows`."""

    first: str
    second: str
    whole: str
    rows: int = -2

    def read(self, name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
        other = name.removesuffix(self.first) + self.second
        first, second = tensors[name], piece(tensors, other, base)
        if first.shape != second.shape or len(first.shape) < -self.rows:
            raise CheckpointError(
                f"tensors {name!r} and {other!r} do not fit each other",
                where=first.file,
                allowed="the same shape",
                got=f"{list(first.shape)} and {list(second.shape)}",
            )
        at = len(first.shape) + self.rows
        shape = (*first.shape[:at], 2 * first.shape[at], *first.shape[at + 1 :])
        placements = _placements(name, declared)[1:]
        form = "+".join((f"gguf_joined-{first.dtype}x{second.dtype}", *placements))
        pieces = (("first", _bytes(name, first)), ("second", _bytes(other, second)))
        return Stored(base, _after(placements, shape), form, pieces)


def _read_halves(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    """`kv_b_proj` [heads * (keys + values), latent].

    Of `keys` [heads, latent, keys] and `values` [heads, values, latent].
    """
    other = name.removesuffix(_KEYS) + _VALUES
    keys, values = tensors[name], piece(tensors, other, base)
    if (
        len(keys.shape) != 3
        or len(values.shape) != 3
        or (keys.shape[0], keys.shape[1]) != (values.shape[0], values.shape[2])
    ):
        raise CheckpointError(
            f"tensors {name!r} and {other!r} do not fit each other",
            where=keys.file,
            allowed="[heads, latent, keys] and [heads, values, latent]",
            got=f"{list(keys.shape)} and {list(values.shape)}",
        )
    heads, latent, inner = keys.shape
    shape = (heads * (inner + values.shape[1]), latent)
    form = f"gguf_latent-{keys.dtype}x{values.dtype}"
    return Stored(base, shape, form, (("keys", _bytes(name, keys)), ("values", _bytes(other, values))))


def _bytes(name: str, info: TensorInfo) -> TensorInfo:
    """The stored tensor as it lies: a float of its own, or rows of bytes."""
    if info.dtype in FLOATS:
        return info
    if info.dtype not in READABLE:
        raise UnsupportedError(
            f"tensor {name!r} is stored in blocks that locum does not read",
            where=info.file,
            allowed=", ".join(sorted(READABLE | FLOATS.keys())),
            got=info.dtype,
        )
    block = BLOCKS[info.dtype]
    row = info.shape[-1] // block.elements * block.bytes
    return info._replace(dtype="U8", shape=(*info.shape[:-1], row))


_PAIRS = (
    _Pair(".experts.gate_proj", ".experts.up_proj", ".experts.gate_up_proj"),
    _Pair(".experts.gate_proj_bias", ".experts.up_proj_bias", ".experts.gate_up_proj_bias", -1),
    _Pair(".shared_mlp.gate_proj.weight", ".shared_mlp.up_proj.weight", ".shared_mlp.input_linear.weight"),
)
JOINED = tuple(
    Scheme(main=pair.first, base=pair.whole, read=pair.read, sides=(pair.second,), matches=_is_joined)
    for pair in _PAIRS
)
HALVES = Scheme(main=_KEYS, base=".weight", read=_read_halves, sides=(_VALUES,), matches=_is_gguf)
SCHEME = Scheme(main="", base="", read=_read, matches=_is_gguf)

"""GGUF: numbers in ggml's blocks, and what llama.cpp's converter did to some tensors beside.

A tensor is one piece, `blocks`: [..., rows, bytes of a row]. DeepSeek's `kv_b_proj` is two in newer files,
the keys' half transposed. What else has to be undone is a placement, which the config made from the metadata
names (`quantization_config.placements`, see `model.gguf.architectures`).
"""

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
    placements = declared["placements"]
    placement = next((placements[end] for end in placements if name.endswith(end)), None)
    form, role = ("raw", "weight") if info.dtype in FLOATS else (f"gguf-{info.dtype}", "blocks")
    return Stored(
        base, info.shape, form if placement is None else f"{form}+{placement}", ((role, _bytes(name, info)),)
    )


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


HALVES = Scheme(main=_KEYS, base=".weight", read=_read_halves, sides=(_VALUES,), matches=_is_gguf)
SCHEME = Scheme(main="", base="", read=_read, matches=_is_gguf)

"""compressed-tensors' integers, in 32-bit words along the inputs (`pack-quantized`) or a byte each.

`X.weight_packed` [O, I * bits / 32], `X.weight_scale` [O, groups], and where they are not symmetric
`X.weight_zero_point`, packed along the outputs. Source: compressed-tensors 0.20, `pack_quantized`.

`int-quantized` has `X.weight` [O, I] and zero points that are not packed either; a scale for all may be [] or
[1], one per output [O]. Source: the same, `naive_quantized`.
"""

from locum.errors import CheckpointError, UnsupportedError
from locum.model.quant import FLOATS
from locum.model.schemes.base import Declared, Scheme, Stored, Tensors
from locum.model.schemes.groups import weights_of
from locum.model.schemes.pieces import piece, require

BITS = (4, 8)
_WORD = 32


def _read(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    codes, scales = tensors[name], piece(tensors, f"{base}_scale", name)
    require(codes, name, ("I32",))
    args = weights_of(base.removesuffix(".weight"), declared)
    bits = args.get("num_bits")
    if args.get("type", "int") != "int" or type(bits) is not int or bits not in BITS:
        raise UnsupportedError(
            "packed weights of a kind that locum does not read",
            where=name,
            allowed="integers of 4 or 8 bits",
            got=f"{args.get('type', 'int')} of {bits} bits",
        )
    if len(codes.shape) < 2:
        raise CheckpointError(f"tensor {name!r} has an impossible shape", got=list(codes.shape))
    rows, columns = codes.shape[-2], codes.shape[-1] * _WORD // bits
    require(scales, f"{base}_scale", tuple(FLOATS), (*codes.shape[:-1], *scales.shape[-1:]))
    words = (*codes.shape[:-2], -(-rows * bits // _WORD), scales.shape[-1])
    plain = Stored(
        base, (*codes.shape[:-1], columns), f"packed-{bits}", (("codes", codes), ("scales", scales))
    )
    return _completed(plain, tensors, words)


def _read_bytes(name: str, base: str, tensors: Tensors, declared: Declared) -> Stored:
    codes, scales = tensors[name], tensors[f"{base}_scale"]
    if len(codes.shape) != 2:
        raise CheckpointError(f"tensor {name!r} has an impossible shape", got=list(codes.shape))
    rows = codes.shape[0]
    few = scales.shape in ((), (1,), (1, 1), (rows,))
    require(scales, f"{base}_scale", tuple(FLOATS), scales.shape if few else (rows, *scales.shape[-1:]))
    return _completed(Stored(base, codes.shape, "packed-8", (("codes", codes), ("scales", scales))), tensors)


def _completed(plain: Stored, tensors: Tensors, words: tuple[int, ...] | None = None) -> Stored:
    """With zero points and the order of inputs, where there are any. `words`: the shape of packed zeros."""
    base, columns, (_, (_, scales)) = plain.name, plain.shape[-1], plain.pieces
    pieces = list(plain.pieces)
    if (zeros := tensors.get(f"{base}_zero_point")) is not None:
        if zeros.dtype == "I32" and words is not None:
            require(zeros, f"{base}_zero_point", ("I32",), words)
        else:
            require(zeros, f"{base}_zero_point", ("I8",), scales.shape)
        pieces.append(("zeros", zeros))
    groups = scales.shape[-1] if len(scales.shape) > 1 else 1
    if (order := tensors.get(f"{base}_g_idx")) is not None:
        require(order, f"{base}_g_idx", ("I32", "I64"), (columns,))
        pieces.append(("order", order))
    if not groups or (order is None and columns % groups):
        raise CheckpointError(f"{base}_scale does not divide {columns} inputs", got=list(scales.shape))
    return plain._replace(pieces=tuple(pieces))


def _is_bytes(name: str, tensors: Tensors, declared: Declared) -> bool:
    return tensors[name].dtype == "I8" and f"{name}_scale" in tensors


_SIDES = (".weight_scale", ".weight_zero_point", ".weight_g_idx")
SCHEME = Scheme(main=".weight_packed", base=".weight", read=_read, sides=(*_SIDES, ".weight_shape"))
BYTES = Scheme(
    main=".weight",
    base=".weight",
    read=_read_bytes,
    # those of activations, which stay floats here
    sides=(*_SIDES, ".input_scale", ".input_zero_point"),
    matches=_is_bytes,
)

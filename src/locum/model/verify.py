"""Checking a supported family's expert tensors against its config: numbers, names, shapes, dtypes."""

from collections.abc import Mapping

from locum.errors import CheckpointError
from locum.model.config import HIDDEN, Reader
from locum.model.families import Family
from locum.model.header import TensorInfo
from locum.model.names import FUSED, PACKED, ExpertGroup, Piece
from locum.model.quant import FLOATS, FP8_DTYPES, block_size

_FLOATS = tuple(FLOATS)
_MXFP4_BLOCK = 32
"""Weights that share one scale byte (OCP Microscaling, v1.0); 16 bytes hold them."""

Shapes = dict[str, tuple[tuple[int, ...], tuple[str, ...]]]
"""Piece name to (shape of one expert, allowed dtypes)."""


def verify_groups(
    read: Reader,
    family: Family,
    groups: tuple[ExpertGroup, ...],
    *,
    layers: tuple[int, ...],
    experts: list[int],
    quantization: str | None,
) -> None:
    """Check that the files hold exactly the experts that the config describes.

    `layers`: the MoE layers that the config asks for; `experts`: experts of each layer of the model. Raises
    `CheckpointError` naming tensor, wanted and got.
    """
    where = read.path.parent
    by_layer = {group.layer: group for group in groups}
    if len(by_layer) != len(groups):
        raise CheckpointError("a layer has two sets of routed experts", where=where, got=groups[0].module)
    for layer in layers:
        if layer not in by_layer:
            raise CheckpointError(
                f"layer {layer} has no routed experts in the files",
                where=where,
                allowed=f"{experts[layer]} of them",
            )
    for group in groups:
        if group.layer not in layers:
            raise CheckpointError(
                f"{group.module} is in the files, but the config has no MoE there", where=where
            )
        if group.experts != experts[group.layer]:
            raise CheckpointError(
                f"the number of experts in {group.module} disagrees with the config",
                where=where,
                allowed=f"{experts[group.layer]}",
                got=f"{group.experts}",
            )
        wanted = _wanted(read, family, group, quantization)
        if wanted is not None:
            _check_pieces(group, wanted, where)


def _wanted(read: Reader, family: Family, group: ExpertGroup, quantization: str | None) -> Shapes | None:
    """What one expert must consist of; None where the shapes are the format's own affair."""
    if group.layout == PACKED:
        return None  # compared with the model itself, see `backbone.index`
    hidden, width = read.count(*HIDDEN), read.count(family.width)
    if group.layout == FUSED:
        if quantization == "mxfp4" and any(piece.name.endswith("_blocks") for piece in group.pieces):
            return _mxfp4(hidden, width)
        return _fused(family, hidden, width) if quantization is None else None
    plain: Shapes = {
        **{f"{name}.weight": ((width, hidden), _FLOATS) for name in family.inner},
        f"{family.outer}.weight": ((hidden, width), _FLOATS),
    }
    if quantization == "fp8":
        return _fp8(plain, group, block_size(read.whole))
    return plain if quantization is None or _all_floats(group) else None


def _all_floats(group: ExpertGroup) -> bool:
    return all(piece.dtype in FLOATS for piece in group.pieces)


def _fused(family: Family, hidden: int, width: int) -> Shapes:
    def matrix(rows: int, columns: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
        return ((columns, rows) if family.transposed else (rows, columns)), _FLOATS

    wanted: Shapes = {"gate_up_proj": matrix(2 * width, hidden), "down_proj": matrix(hidden, width)}
    if family.biased:
        wanted |= {"gate_up_proj_bias": ((2 * width,), _FLOATS), "down_proj_bias": ((hidden,), _FLOATS)}
    return wanted


def _mxfp4(hidden: int, width: int) -> Shapes:
    """gpt-oss: per output row, blocks of 32 weights in 16 bytes, and one scale byte for each block."""
    wanted: Shapes = {}
    for name, rows, columns in (("gate_up_proj", 2 * width, hidden), ("down_proj", hidden, width)):
        blocks = columns // _MXFP4_BLOCK
        wanted[f"{name}_blocks"] = (rows, blocks, _MXFP4_BLOCK // 2), ("U8",)
        wanted[f"{name}_scales"] = (rows, blocks), ("U8",)
        wanted[f"{name}_bias"] = (rows,), _FLOATS
    return wanted


def _fp8(plain: Shapes, group: ExpertGroup, block: tuple[int, int] | None) -> Shapes | None:
    """Block-scaled FP8: beside each weight one float per block. None where the scales are not per block."""
    names = {piece.name for piece in group.pieces}
    if _all_floats(group):  # the experts were left out of the quantisation
        return plain
    if block is None or not any(name.endswith(".weight_scale_inv") for name in names):
        return None
    wanted: Shapes = {}
    for name, (shape, _) in plain.items():
        scales = tuple(-(-side // step) for side, step in zip(shape, block, strict=True))
        wanted[name] = shape, FP8_DTYPES
        wanted[f"{name}_scale_inv"] = scales, (*_FLOATS, "F8_E8M0", "U8")
    return wanted


def _check_pieces(group: ExpertGroup, wanted: Shapes, where: object) -> None:
    found = {piece.name: piece for piece in group.pieces}
    for name, (shape, dtypes) in wanted.items():
        piece = found.get(name)
        if piece is None:
            raise CheckpointError(
                f"the experts of {group.module} lack {name!r}", where=where, allowed=", ".join(wanted)
            )
        if piece.shape != shape or piece.dtype not in dtypes:
            raise _mismatch(group, piece, shape, dtypes, where)
    extra = sorted(found.keys() - wanted.keys())
    if extra:
        raise CheckpointError(
            f"the experts of {group.module} have a tensor {extra[0]!r} that the family does not know",
            where=where,
            allowed=", ".join(wanted),
        )


def _mismatch(
    group: ExpertGroup, piece: Piece, shape: tuple[int, ...], dtypes: tuple[str, ...], where: object
) -> CheckpointError:
    return CheckpointError(
        f"{piece.name!r} of the experts of {group.module} disagrees with the config",
        where=where,
        allowed=f"{' or '.join(dtypes)} {list(shape)}",
        got=f"{piece.dtype} {list(piece.shape)}",
    )


def verify_backbone(
    read: Reader, tensors: Mapping[str, TensorInfo], stack: str, *, layers: int, sizes: tuple[int, int]
) -> None:
    """Check the tensors that decide the other sizes: the embedding, and that every layer is there.

    `sizes` is (vocabulary, hidden). Raises `CheckpointError` naming tensor, wanted and got.
    """
    where, (vocab, hidden) = read.path.parent, sizes
    prefix = f"{stack}." if stack else ""
    name = f"{prefix}embed_tokens.weight"
    info = tensors.get(name)
    if info is None:
        raise CheckpointError(f"tensor {name!r} is missing", where=where, allowed=f"[{vocab}, {hidden}]")
    if info.shape != (vocab, hidden):
        raise CheckpointError(
            f"tensor {name!r} disagrees with the config",
            where=f"{where} ({info.file})",
            allowed=f"{[vocab, hidden]}",
            got=f"{list(info.shape)}",
        )
    for layer in range(layers):
        norm = f"{prefix}layers.{layer}.input_layernorm.weight"
        if norm not in tensors:
            raise CheckpointError(
                f"tensor {norm!r} is missing", where=where, allowed=f"{layers} layers, as the config says"
            )
        if tensors[norm].shape != (hidden,):
            raise CheckpointError(
                f"tensor {norm!r} disagrees with the config",
                where=f"{where} ({tensors[norm].file})",
                allowed=f"[{hidden}]",
                got=f"{list(tensors[norm].shape)}",
            )

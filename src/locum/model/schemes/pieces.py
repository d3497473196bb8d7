"""Fetching the pieces of a quantised tensor, and complaining about them."""

from collections.abc import Sequence

from locum.errors import CheckpointError
from locum.model.header import TensorInfo
from locum.model.schemes.base import Tensors


def piece(tensors: Tensors, name: str, owner: str) -> TensorInfo:
    """The stored tensor `name`, without which `owner` cannot be read. Raises `CheckpointError`."""
    info = tensors.get(name)
    if info is None:
        raise CheckpointError(f"tensor {name!r} is missing", allowed=f"what belongs to {owner!r}")
    return info


def require(info: TensorInfo, name: str, dtypes: Sequence[str], shape: Sequence[int] | None = None) -> None:
    """Check dtype and shape of a piece. Raises `CheckpointError` naming tensor, wanted and got."""
    if info.dtype not in dtypes or (shape is not None and tuple(shape) != info.shape):
        wanted = " or ".join(dtypes) + (f" {list(shape)}" if shape is not None else "")
        raise CheckpointError(
            f"tensor {name!r} does not fit the others it belongs to",
            where=info.file,
            allowed=wanted,
            got=f"{info.dtype} {list(info.shape)}",
        )

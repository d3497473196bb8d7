"""Numbers that are stored as they are, if perhaps not where they are wanted.

Axes: I intermediate, O and H the two sides of a weight.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from locum.kernels.forms.base import Make


def make(method: str, numbers: str) -> Make:
    """The stored matrix itself."""
    return _stored


def _stored(pieces: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    return pieces["weight"]


def _interleaved(stored_2IH: Tensor) -> Tensor:
    """Rows of gate and up by turns: first all of gate, then all of up."""
    rows = stored_2IH.shape[0] // 2
    return stored_2IH.view(rows, 2, -1).transpose(0, 1).reshape(stored_2IH.shape)


def _transposed(stored_HO: Tensor) -> Tensor:
    return stored_HO.transpose(-1, -2).contiguous()


PLACEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "interleaved": _interleaved,
    "transposed": _transposed,
}
"""By name, from the tensor as stored to the one that transformers would have loaded."""

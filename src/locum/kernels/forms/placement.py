"""Numbers that are stored as they are, if perhaps not where they are wanted.

Axes: I intermediate, O and H the two sides of a weight.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from locum.kernels.forms.base import Make


def make(method: str, numbers: str) -> Make:
    """The stored matrix itself."""
    return _stored


def _stored(pieces: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice) -> Tensor:
    return pieces["weight"][rows]


def _interleaved(stored_2IH: Tensor, parts: int) -> Tensor:
    """Rows of gate and up by turns: first all of gate, then all of up. So in each of `parts` runs of rows."""
    rows = stored_2IH.shape[0] // 2 // parts
    return stored_2IH.view(parts, rows, 2, -1).transpose(1, 2).reshape(stored_2IH.shape)


def _woven(stored: Tensor, parts: int) -> Tensor:
    """First all rows (or numbers) of gate, then all of up: by turns instead. So in each of `parts` runs."""
    rows = stored.shape[0] // 2 // parts
    return stored.view(parts, 2, rows, -1).transpose(1, 2).reshape(stored.shape)


def _transposed(stored_HO: Tensor, parts: int) -> Tensor:
    return stored_HO.transpose(-1, -2).contiguous()


PLACEMENTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "interleaved": _interleaved,
    "woven": _woven,
    "transposed": _transposed,
}
"""By name, from the tensor as stored and the number after the name (1 where there is none) to the tensor that
transformers would have loaded."""

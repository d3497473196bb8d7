"""Random weights at the speed of a disk: windows into pools of normal noise. No torch.

Drawing fresh numbers for every weight would cost minutes. Instead one pool is drawn per scale, and each
tensor is a few windows of it at random places. Each window of a tensor starts at its own place within the
row, so no two rows of a tensor are equal (unless it has more windows than its rows have places:
vocabularies of millions).

The scales keep such a model's behaviour alive. Matrices have variance 1 / fan-in, which is the usual 0.02
at a width of 2500 and works at any width. Sharp attention (query norms about 4) and loud experts keep
greedy text from falling into a loop, where every token would choose the same experts. Routing is not
uniform all the same: the embeddings are small beside what the first attention adds, and that is an average
over the text, alike for neighbouring tokens. With half of the experts of the 1B-7B shape in memory, LRU keeps
about 70% of the requests. `locality` has other scales, with which routing is as uniform, or as local, as one
asks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from locum.errors import UsageError
from locum.synth.names import TensorSpec
from locum.units import MIB

POOL_BYTES = 16 * MIB
_BLOCK = 1 << 20
_OUTER = ("down_proj", ".w2.")
"""How families call the matrix that leads out of an expert."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """A number format: its safetensors name, its name in `config.json`, bytes per number."""

    code: str
    name: str
    size: int

    def of(self, tensor: TensorSpec) -> "Dtype":
        """The format of one tensor: this one, but whole numbers keep theirs."""
        whole = tensor.content is not None and tensor.content.dtype.kind != "f"
        return WHOLE[str(tensor.content.dtype)] if whole and tensor.content is not None else self


DTYPES = {"bf16": Dtype("BF16", "bfloat16", 2), "fp32": Dtype("F32", "float32", 4)}
WHOLE = {
    "bool": Dtype("BOOL", "bool", 1),
    "uint8": Dtype("U8", "uint8", 1),
    "int32": Dtype("I32", "int32", 4),
    "int64": Dtype("I64", "int64", 8),
}
"""Formats of tensors that hold no weights, such as tables of a fixed routing."""


def bytes_of(tensor: TensorSpec, dtype: Dtype) -> int:
    """Bytes of a tensor in a checkpoint of this format."""
    return tensor.elements * dtype.of(tensor).size


def dtype_of(name: str) -> Dtype:
    """The format called `bf16` or `fp32`. Raises `UsageError`."""
    if name not in DTYPES:
        raise UsageError("unknown number format", allowed=", ".join(DTYPES), got=repr(name))
    return DTYPES[name]


def scale(tensor: TensorSpec) -> tuple[float, float]:
    """(mean, standard deviation) of a tensor's weights."""
    if tensor.drawn is not None:
        return tensor.drawn
    if tensor.is_norm:
        return (4.0 if tensor.name.endswith("q_norm.weight") else 1.0), 0.1
    if "embed_tokens" in tensor.name or tensor.is_bias:
        return 0.0, 0.1
    gain = 4.0 if tensor.is_expert and any(name in tensor.name for name in _OUTER) else 1.0
    return 0.0, gain / tensor.fan_in**0.5


def encode(values: NDArray[np.float32], dtype: Dtype) -> NDArray[np.uint8]:
    """The bytes of `values` [n] on disk. bf16 is the high half of a float32: random weights need no
    rounding.
    """
    little = values.astype("<f4", copy=False)
    if dtype.size == 4:
        return little.view(np.uint8)
    return np.ascontiguousarray(little.view("<u2")[1::2]).view(np.uint8)


Rows = NDArray[Any]
"""Rows of a tensor as bits, in the checkpoint's format."""
Encode = Callable[[NDArray[np.float32]], Rows]
Edit = Callable[[Rows, int, Encode], None]
"""(rows, number of the first one in the tensor, encoder of numbers [n]): changes the rows in place."""


class Recipe(Protocol):
    """Which random numbers a tensor gets, and what is done to them."""

    def scale(self, tensor: TensorSpec) -> tuple[float, float]:
        """(mean, standard deviation)."""

    def editor(self, tensor: TensorSpec, random: np.random.Generator) -> Edit | None:
        """What is to be done to the rows of a tensor of mean 0, piece by piece; None: nothing.

        May draw from `random`, the stream that all the checkpoint's numbers come from.
        """


class Plain:
    """Scales by name, and nothing done."""

    scale = staticmethod(scale)

    def editor(self, tensor: TensorSpec, random: np.random.Generator) -> Edit | None:
        """Nothing."""
        return None


class Noise:
    """Weights for one checkpoint, the same for the same seed: normal and never zero, but for a tensor's own
    `content` and for what the recipe sets.
    """

    def __init__(
        self, seed: int, dtype: Dtype, *, pool_bytes: int = POOL_BYTES, recipe: Recipe | None = None
    ) -> None:
        self._random = np.random.Generator(np.random.SFC64(seed))
        self._recipe: Recipe = Plain() if recipe is None else recipe
        self._dtype, self._length = dtype, pool_bytes // dtype.size
        self._pools: dict[float, NDArray[np.uint8]] = {}

    def _draw(self, count: int, mean: float, std: float) -> NDArray[np.uint8]:
        values = self._random.standard_normal(count, dtype=np.float32) * np.float32(std) + np.float32(mean)
        values[values == 0] = std
        return encode(values, self._dtype)

    def _pool(self, std: float) -> NDArray[np.uint8]:
        if std not in self._pools:
            blocks = range(0, self._length, _BLOCK)
            self._pools[std] = np.concatenate(
                [self._draw(min(_BLOCK, self._length - start), 0.0, std) for start in blocks]
            )
        return self._pools[std]

    def mark(self, tensor: TensorSpec) -> Any:
        """Pass over `tensor`, the next one in the stream; what `pieces_from` needs to come back to it."""
        if tensor.content is None:
            mean, std = self._recipe.scale(tensor)
            if not mean:
                self._pool(std)  # drawing the pool is not part of the tensor
        state = self._random.bit_generator.state
        for _ in self.pieces(tensor):
            pass
        return state

    def pieces_from(self, state: Any, tensor: TensorSpec) -> Iterator[NDArray[np.uint8]]:
        """The bytes of a tensor that has been passed over, as `pieces` gave them then."""
        self._random.bit_generator.state = state
        return self.pieces(tensor)

    def pieces(self, tensor: TensorSpec) -> Iterator[NDArray[np.uint8]]:
        """The bytes of `tensor`, piece by piece, each of at most half a pool. They are for reading only."""
        if tensor.content is not None:
            yield self._own(tensor.content)
            return
        mean, std = self._recipe.scale(tensor)
        if mean:
            yield self._draw(tensor.elements, mean, std)
            return
        windows = self._windows(tensor, self._pool(std))
        edit = self._recipe.editor(tensor, self._random)
        yield from windows if edit is None else self._edited(windows, tensor.shape[-1], edit)

    def _edited(
        self, windows: Iterator[NDArray[np.uint8]], row: int, edit: Edit
    ) -> Iterator[NDArray[np.uint8]]:
        unit, first = f"<u{self._dtype.size}", 0
        for piece in windows:
            rows = piece.copy().view(unit).reshape(-1, row)
            edit(rows, first, lambda values: encode(values, self._dtype).view(unit))
            first += len(rows)
            yield rows.reshape(-1).view(np.uint8)

    def _own(self, content: NDArray[np.generic]) -> NDArray[np.uint8]:
        if content.dtype.kind == "f":
            return encode(np.asarray(content, dtype=np.float32).reshape(-1), self._dtype)
        return np.ascontiguousarray(content).reshape(-1).view(np.uint8)

    def _windows(self, tensor: TensorSpec, pool: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        row, size = tensor.shape[-1], self._dtype.size
        longest = self._length // 2 // row * row
        assert longest, "a row longer than half a pool"
        phase = int(self._random.integers(row))
        for number, begin in enumerate(range(0, tensor.elements, longest)):
            count = min(longest, tensor.elements - begin)
            residue = (phase + number) % row
            places = (self._length - count - residue) // row
            start = int(self._random.integers(places + 1)) * row + residue
            yield pool[start * size : (start + count) * size]

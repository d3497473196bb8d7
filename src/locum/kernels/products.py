"""Matrix products that keep torch's bits and do not wait for torch.

For one row, which is every decoded token, oneDNN lays a bfloat16 weight out anew at each call and reaches a
third to a half of the memory's rate. The native product reads the weight as it lies, in oneDNN's own order
of additions. Whether this torch, on this processor, for this very shape and these numbers of threads, adds in
that order is asked by trial; where it does not, or where there is no native library, torch multiplies as
before.

Axes: N rows, O outputs, I inputs.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor

from locum.native import Native

BLOCKS = (512, 256, 1024, 128, 64, 1 << 20)
"""Lengths of a chain of additions that are tried; the last one stands for a single chain."""
TRIAL_ELEMENTS = 1 << 25
"""Weights up to this size are tried on numbers that tell every rounding, larger ones on their own values."""
_DRAWS = 3
_SPECIAL = (float("inf"), float("-inf"), float("nan"), -0.0, 1e-39, -1e-39, 3e38, -3e38, 1e-38)


class Products:
    """`linear` is `F.linear`, with native products of one row for the shapes that passed `try_shape`.

    `threads` are the numbers of threads that will compute. What was not tried is left to torch.
    """

    def __init__(self, native: Native, threads: Iterable[int]) -> None:
        self.native, self._threads = native, frozenset(threads)
        self.blocks: dict[torch.Size, int] = {}
        """The length of a chain of additions by shape [O, I] of what is computed natively."""
        self.refused: set[torch.Size] = set()
        """Shapes for which torch adds in another order."""

    def describe(self) -> str:
        """What multiplies one row, in a few words for people."""
        if self.native.missing is not None:
            return f"torch ({self.native.missing})"
        if not self.blocks:
            return "torch"
        return "native where the bits are torch's" if self.refused else "native, torch's bits"

    def linear(self, x: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """`F.linear(x, w_OI, bias_O)`, the same bits."""
        block = self.blocks.get(w_OI.shape)
        if block is None or bias_O is not None or not self._suits(x, w_OI):
            return F.linear(x, w_OI, bias_O)
        return self._multiply(x, w_OI, block)

    def try_shape(self, shape: Iterable[int], dtype: torch.dtype) -> bool:
        """Find out whether weights of `shape` [O, I] can be multiplied natively; True when so.

        Takes as much memory as such a weight for the moment.
        """
        size = torch.Size(shape)
        if len(size) != 2 or not self._worth(size, dtype):
            return False
        if size not in self.blocks and size not in self.refused:
            self._settle(size, _revealing(size))
        return size in self.blocks

    def try_weight(self, w_OI: Tensor) -> bool:
        """As `try_shape`; a weight too large to make another of is tried on its own values."""
        if w_OI.numel() <= TRIAL_ELEMENTS:
            return self.try_shape(w_OI.shape, w_OI.dtype)
        if not self._worth(w_OI.shape, w_OI.dtype) or not w_OI.is_contiguous():
            return False
        if w_OI.shape not in self.blocks and w_OI.shape not in self.refused:
            self._settle(w_OI.shape, _plain(w_OI))
        return w_OI.shape in self.blocks

    def _worth(self, size: torch.Size, dtype: torch.dtype) -> bool:
        return self.native.missing is None and dtype == torch.bfloat16 and min(size) > 0

    def _suits(self, x: Tensor, w_OI: Tensor) -> bool:
        return (
            x.numel() == w_OI.shape[1]
            and x.dtype is torch.bfloat16
            and w_OI.dtype is torch.bfloat16
            and w_OI.is_contiguous()
            and x.is_contiguous()
            and not torch.is_grad_enabled()
            and torch.get_num_threads() in self._threads
        )

    def _multiply(self, x: Tensor, w_OI: Tensor, block: int) -> Tensor:
        outputs, inputs = w_OI.shape
        y = x.new_empty(*x.shape[:-1], outputs)
        threads = torch.get_num_threads()
        self.native.linear_bf16(w_OI.data_ptr(), x.data_ptr(), y.data_ptr(), outputs, inputs, block, threads)
        return y

    @torch.inference_mode()
    def _settle(self, size: torch.Size, trials: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Find the block that gives torch's bits in every trial at every number of threads."""
        left = [block for block in BLOCKS if block < size[1]] + [BLOCKS[-1]]
        before = torch.get_num_threads()
        try:
            for x, w_OI in trials:
                for count in sorted(self._threads):
                    torch.set_num_threads(count)
                    right = F.linear(x, w_OI)
                    left = [block for block in left if _same(self._multiply(x, w_OI, block), right)]
                if not left:
                    self.refused.add(size)
                    return
        finally:
            torch.set_num_threads(before)
        self.blocks[size] = left[0]


def _revealing(size: torch.Size) -> Iterator[tuple[Tensor, Tensor]]:
    """Trials that show every rounding on the way: bfloat16 results hide most of float32's bits.

    The last inputs are 1 and their weights cancel what the others add up to, first roughly, then as well as
    bfloat16 can; what is left are the roundings themselves. Then infinities, NaN, subnormals and overflow.
    """
    random = torch.Generator().manual_seed(0)
    w_OI = torch.randn(*size, generator=random).bfloat16()
    corrections = min(2, size[1] - 1)
    for _ in range(_DRAWS):
        x = torch.randn(1, size[1], generator=random).bfloat16()
        yield x, w_OI
        x[:, size[1] - corrections :] = 1
        w_OI[:, size[1] - corrections :] = 0
        for column in range(size[1] - corrections, size[1]):
            w_OI[:, column] = -F.linear(x, w_OI)[0]
            yield x, w_OI
    for value in _SPECIAL:
        places = torch.randint(w_OI.numel(), (1 + size[0] // 16,), generator=random)
        w_OI.view(-1)[places] = value
        yield x, w_OI
    w_OI *= 2.0**-126
    yield x, w_OI


def _plain(w_OI: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Trials on a weight as it is: many outputs, among which other orders would show by rounding alone."""
    random = torch.Generator().manual_seed(0)
    for _ in range(_DRAWS + max(1, (1 << 19) // w_OI.shape[0])):
        yield torch.randn(1, w_OI.shape[1], generator=random).bfloat16(), w_OI


def _same(one: Tensor, other: Tensor) -> bool:
    """The same bits; any NaN is like any other."""
    nan = one.isnan()
    return torch.equal(nan, other.isnan()) and torch.equal(
        one.masked_fill(nan, 0).view(torch.int16), other.masked_fill(nan, 0).view(torch.int16)
    )

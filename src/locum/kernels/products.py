"""Matrix products that keep torch's bits and do not wait for torch.

For one row, which is every decoded token, oneDNN lays a bfloat16 weight out anew at each call and reaches a
third to a half of the memory's rate. The native product reads the weight as it lies, in oneDNN's own order
of additions. Whether this torch, on this processor, for this very shape and number of threads, adds in an
order that we know is asked by trial; where it does not, or where there is no native library, torch multiplies
as before.

Axes: N rows, O outputs, I inputs.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor

from locum.native import Native

ALL = 1 << 20
BLOCKS = (512, 256, 1024, 128, 64, ALL)
"""Lengths of a chain of additions that are tried."""
TRIAL_ELEMENTS = 1 << 25
"""Weights up to this size are tried on numbers that tell every rounding, larger ones on their own values."""
CATCHES = 8
"""So many outputs of a product in a wrong order must have given themselves away before a trial counts."""
_DRAWS = 3
_PLAIN_DRAWS = 32
_SPECIAL = (float("inf"), float("-inf"), float("nan"), -0.0, 1e-39, -1e-39, 3e38, -3e38, 1e-38)

Trials = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Pairs of a row [1, I] and a weight [O, I] to compare products on; one may be changed between two pairs."""


class Order(NamedTuple):
    """An order of additions: chains of `block` inputs, sums of `span` chains."""

    block: int
    span: int


_DECOY = Order(32, ALL)
"""An order that torch is not expected to have: a trial that it passes tells nothing."""


class Products:
    """`linear` is `F.linear`, with native products of one row for the shapes that passed `try_shape`.

    `threads` are the numbers of threads that will compute. What was not tried is left to torch, and so is
    whatever is not plain computing on the processor: gradients, other devices, autocast. The trials hold for
    torch as it was then; `torch.set_flush_denormal` after them is not noticed.
    """

    def __init__(self, native: Native, threads: Iterable[int]) -> None:
        self.native, self._threads = native, frozenset(threads)
        self.orders: dict[torch.Size, dict[int, Order]] = {}
        """By shape [O, I] and number of threads, the order in which torch adds, for what is native."""
        self.refused: set[torch.Size] = set()
        """Shapes for which torch adds in an order that is not known."""

    def __deepcopy__(self, memo: object) -> "Products":
        return self  # a copied model computes as the one it was copied from

    def __reduce__(self) -> tuple[object, ...]:
        return Products, (Native("it was not here when the model was saved"), tuple(self._threads))

    def describe(self) -> str:
        """What multiplies one row, in a few words for people."""
        if self.native.missing is not None:
            return f"torch ({self.native.missing})"
        if not self.orders:
            return "torch"
        return "native where the bits are torch's" if self.refused else "native, torch's bits"

    def linear(self, x: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """`F.linear(x, w_OI, bias_O)`, the same bits."""
        orders = self.orders.get(w_OI.shape)
        if orders is None or bias_O is not None or not _suits(x, w_OI):
            return F.linear(x, w_OI, bias_O)
        threads = torch.get_num_threads()
        order = orders.get(threads)
        return F.linear(x, w_OI) if order is None else self._multiply(x, w_OI, order, threads)

    def try_shape(self, shape: Iterable[int], dtype: torch.dtype) -> bool:
        """Find out whether weights of `shape` [O, I] can be multiplied natively; True when so.

        Takes as much memory as such a weight for the moment.
        """
        size = torch.Size(shape)
        return len(size) == 2 and self._try(size, dtype, lambda: _revealing(size))

    def try_weight(self, w_OI: Tensor) -> bool:
        """As `try_shape`; a weight too large to make another of is tried on its own values."""
        if w_OI.numel() <= TRIAL_ELEMENTS:
            return self.try_shape(w_OI.shape, w_OI.dtype)
        return w_OI.is_contiguous() and self._try(w_OI.shape, w_OI.dtype, lambda: _plain(w_OI))

    def _try(self, size: torch.Size, dtype: torch.dtype, trials: Trials) -> bool:
        if self.native.missing is not None or dtype != torch.bfloat16 or min(size) < 1:
            return False
        if size not in self.orders and size not in self.refused:
            found = self._find_orders(size, trials)
            if len(found) == len(self._threads):
                self.orders[size] = found
            else:
                self.refused.add(size)
        return size in self.orders

    @torch.inference_mode()
    def _find_orders(self, size: torch.Size, trials: Trials) -> dict[int, Order]:
        """By number of threads, the order that gives torch's bits in every trial."""
        before, found = torch.get_num_threads(), {}
        try:
            for threads in self._threads:
                torch.set_num_threads(threads)
                likely, *others = _candidates(size[1], threads)
                for orders in ([likely], others):  # nearly always the first one: the others would take time
                    if left := self._passing(orders, trials, threads):
                        found[threads] = left[0]
                        break
        finally:
            torch.set_num_threads(before)
        return found

    def _passing(self, orders: list[Order], trials: Trials, threads: int) -> list[Order]:
        """Those of `orders` that give torch's bits in every trial; none when the trials tell nothing."""
        caught = 0
        for x, w_OI in trials():
            right = F.linear(x, w_OI)
            orders = [o for o in orders if not _differing(self._multiply(x, w_OI, o, threads), right)]
            if not orders:
                return []
            caught += _differing(self._multiply(x, w_OI, _DECOY, threads), right)
            if caught >= CATCHES and w_OI.numel() > TRIAL_ELEMENTS:
                return orders
        return orders if caught >= CATCHES or x.numel() <= _DECOY.block else []

    def _multiply(self, x: Tensor, w_OI: Tensor, order: Order, threads: int) -> Tensor:
        outputs, inputs = w_OI.shape
        y = x.new_empty(*x.shape[:-1], outputs)
        self.native.linear_bf16(
            w_OI.data_ptr(), x.data_ptr(), y.data_ptr(), outputs, inputs, order.block, order.span, threads
        )
        return y


def _suits(x: Tensor, w_OI: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.dim() > 0
        and x.shape[-1] == x.numel() == w_OI.shape[1]
        and x.dtype is torch.bfloat16
        and w_OI.dtype is torch.bfloat16
        and x.is_cpu
        and w_OI.is_cpu
        and w_OI.is_contiguous()
        and x.is_contiguous()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
    )


def _candidates(inputs: int, threads: int) -> list[Order]:
    """The orders to try: one sum of all chains, or the chains divided among up to `threads` sums."""
    orders = []
    for block in [block for block in BLOCKS if block < inputs] + [ALL]:
        chains = -(-inputs // block)
        spans = {-(-chains // parts) for parts in range(2, min(threads, chains) + 1)}
        orders += [Order(block, span) for span in (ALL, *sorted(spans, reverse=True))]
    return orders


def _revealing(size: torch.Size) -> Iterator[tuple[Tensor, Tensor]]:
    """Trials that show every rounding on the way: bfloat16 results hide most of float32's bits.

    The last inputs are 1 and their weights cancel what the others add up to, first roughly, then as well as
    bfloat16 can; what is left are the roundings themselves. Then infinities, NaN, subnormals and overflow.
    """
    random = torch.Generator().manual_seed(0)
    w_OI = torch.empty(size, dtype=torch.bfloat16).normal_(generator=random)
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
    """Trials on a weight as it is: among many outputs other orders show by rounding alone.

    Measured: one output in 2,000 to 7,000 differs.
    """
    random = torch.Generator().manual_seed(0)
    for _ in range(_PLAIN_DRAWS):
        yield torch.randn(1, w_OI.shape[1], generator=random).bfloat16(), w_OI


def _differing(one: Tensor, other: Tensor) -> int:
    """How many numbers differ in a bit; any NaN is like any other."""
    both = one.isnan() & other.isnan()
    return int(((one.view(torch.int16) != other.view(torch.int16)) & ~both).sum())
